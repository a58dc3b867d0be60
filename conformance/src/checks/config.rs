//! Config strings.

use anyhow::{Context, Result, ensure};
use tsoracle_core::{DriverConfig, DriverFactory, Error, ErrorKind, OpenContext};

use crate::rig::Rig;

checks!("config":
    a_config_string_opens_a_driver_that_leads [Configure],
    an_unknown_option_is_refused_and_the_valid_ones_are_listed [Configure],
    an_option_that_is_given_twice_is_refused [Configure],
    every_option_has_a_line_of_help [Configure],
);

async fn a_config_string_opens_a_driver_that_leads(mut rig: Rig) -> Result<()> {
    let text = rig.place.config()?;
    let named = DriverConfig::parse(&text)?;
    rig.harness.registry()?.find(named.name())?;
    rig.reign().await?.take("orders", 1).await?;
    Ok(())
}

async fn an_unknown_option_is_refused_and_the_valid_ones_are_listed(mut rig: Rig) -> Result<()> {
    let error = refused(&mut rig, "no_such_option=1").await?;
    let text = error.to_string();
    ensure!(text.contains("`no_such_option`"), "the unknown option is not named: {text}");
    for option in factory(&rig)?.options {
        let name = format!("`{}`", option.name);
        ensure!(text.contains(&name), "the valid option {name} is not listed: {text}");
    }
    Ok(())
}

async fn an_option_that_is_given_twice_is_refused(mut rig: Rig) -> Result<()> {
    let Some(option) = factory(&rig)?.options.first() else { return Ok(()) };
    let (name, value) = (option.name, option.default);
    let error = refused(&mut rig, &format!("{name}={value}&{name}={value}")).await?;
    let text = error.to_string();
    ensure!(text.contains(name), "the option {name} is not named: {text}");
    Ok(())
}

async fn every_option_has_a_line_of_help(rig: Rig) -> Result<()> {
    let factory = factory(&rig)?;
    ensure!(!factory.summary.is_empty(), "the driver {} has no summary", factory.name);
    for option in factory.options {
        ensure!(!option.help.is_empty(), "the option {} has no help", option.name);
    }
    Ok(())
}

fn factory(rig: &Rig) -> Result<DriverFactory> {
    let config = DriverConfig::parse(&rig.place.config()?)?;
    Ok(*rig.harness.registry()?.find(config.name())?)
}

/// Opens with more options, and returns the error of kind `Config` that must come.
async fn refused(rig: &mut Rig, options: &str) -> Result<Error> {
    let text = rig.place.config()?;
    let joint = if text.contains('?') { '&' } else { '?' };
    let config = DriverConfig::parse(&format!("{text}{joint}{options}"))?;
    let opened = rig.harness.registry()?.open(config, OpenContext::default()).await;
    let error = opened.err().with_context(|| format!("{options} was accepted"))?;
    ensure!(
        *error.kind() == ErrorKind::Config,
        "{options} is not an error of kind Config: {error}"
    );
    Ok(error)
}
