//! Config strings.

use anyhow::{Context, Result, ensure};
use tsoracle_core::{DriverConfig, DriverFactory, Effect, Error, ErrorKind, OpenContext, Registry};

use super::MakeFixture;
use crate::{Fixture, fixture::the, model::Walk};

checks!("config":
    a_config_string_opens_a_driver_that_leads [config],
    an_unknown_option_is_refused_and_the_valid_ones_are_listed [config],
    an_option_that_is_given_twice_is_refused [config],
    every_option_has_a_line_of_help [config],
);

async fn a_config_string_opens_a_driver_that_leads(make: MakeFixture) -> Result<()> {
    let fixture = make();
    let named = DriverConfig::parse(&string(&fixture).await?)?;
    registry(&fixture)?.find(named.name())?;
    let mut effect = Effect::default();
    effect.put("a", "1");
    Walk::open(fixture, 1).await?.commit(&effect).await?;
    Ok(())
}

async fn an_unknown_option_is_refused_and_the_valid_ones_are_listed(
    make: MakeFixture,
) -> Result<()> {
    let error = refused(&make(), "no_such_option=1").await?;
    let text = format!("{error:#}");
    ensure!(text.contains("`no_such_option`"), "the unknown option is not named: {text}");
    for option in factory(&make()).await?.options {
        let name = format!("`{}`", option.name);
        ensure!(text.contains(&name), "the valid option {name} is not listed: {text}");
    }
    Ok(())
}

async fn an_option_that_is_given_twice_is_refused(make: MakeFixture) -> Result<()> {
    let Some(option) = factory(&make()).await?.options.first() else { return Ok(()) };
    let (name, value) = (option.name, option.default);
    let error = refused(&make(), &format!("{name}={value}&{name}={value}")).await?;
    let text = format!("{error:#}");
    ensure!(text.contains(name), "the option {name} is not named: {text}");
    Ok(())
}

async fn every_option_has_a_line_of_help(make: MakeFixture) -> Result<()> {
    let factory = factory(&make()).await?;
    ensure!(!factory.summary.is_empty(), "the driver {} has no summary", factory.name);
    for option in factory.options {
        ensure!(!option.help.is_empty(), "the option {} has no help", option.name);
    }
    Ok(())
}

async fn string(fixture: &Fixture) -> Result<String> {
    Ok(the(&fixture.config)?.run(()).await?.string)
}

fn registry(fixture: &Fixture) -> Result<Registry> {
    Ok(fixture.registry.clone().map_or_else(Registry::linked, Ok)?)
}

async fn factory(fixture: &Fixture) -> Result<DriverFactory> {
    let config = DriverConfig::parse(&string(fixture).await?)?;
    Ok(*registry(fixture)?.find(config.name())?)
}

/// Opens with more options, and returns the error of kind `Config` that must come.
async fn refused(fixture: &Fixture, options: &str) -> Result<Error> {
    let text = string(fixture).await?;
    let joint = if text.contains('?') { '&' } else { '?' };
    let config = DriverConfig::parse(&format!("{text}{joint}{options}"))?;
    let opened = registry(fixture)?.open(config, OpenContext::default()).await;
    let error = opened.err().with_context(|| format!("{options} was accepted"))?;
    ensure!(
        *error.kind() == ErrorKind::Config,
        "{options} is not an error of kind Config: {error:#}"
    );
    Ok(error)
}
