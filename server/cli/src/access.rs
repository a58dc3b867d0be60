//! Who may do what at this server, as its settings say, and say again when their files change.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tokio::sync::mpsc;
use tsoracle_core::{Clock as _, Reloader, SystemClock};
use tsoracle_server::{
    Access, Audit, Place, Policy, ReloadRequest, Reloaded, Rules, TokenRecord, Tokens, Trust,
};

use crate::{
    failure::{Failure, usage_if_config},
    log,
    settings::Settings,
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Who may do what, by the settings.
pub(crate) fn open(settings: &Settings) -> Result<Access, Failure> {
    let audit = match &settings.audit_log {
        None => Audit::default(),
        Some(path) => Audit::new(log::to_file(path)?),
    };
    Ok(Access::new(rules(settings)?, audit))
}

fn rules(settings: &Settings) -> Result<Rules, Failure> {
    let policy = settings.policy.as_ref().map(Policy::new).transpose().map_err(usage_if_config)?;
    let tokens = settings.tokens.as_deref().map(tokens).transpose()?;
    if let Some(policy) = &policy {
        if !policy.has_admin() && settings.admin_listen.is_none() {
            return Err(Failure::usage(
                "the policy gives nobody the right \"cluster\", and there is no admin address, so that nobody could \
                 change the cluster; give an identity the role admin, or set --admin-listen",
            ));
        }
        for name in tokens.iter().flat_map(Tokens::names).filter(|name| !policy.lists(name)) {
            tracing::warn!(
                name,
                "there is a token of an identity of which the policy says nothing"
            );
        }
    }
    Rules::new(policy, tokens).map_err(usage_if_config)
}

/// Reads the tokens of a file.
fn tokens(path: &Path) -> Result<Tokens, Failure> {
    let place = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read the tokens {place}: {error:#}")))?;
    let others_write = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o022 != 0);
    if others_write {
        tracing::warn!(file = %place, "others can write the file of tokens, and so be whoever they like; chmod 600");
    }
    let tokens = TokenRecord::read_all(&text).and_then(|records| Tokens::new(&records));
    tokens.map_err(|error| Failure::usage(format!("tokens {place}, {error:#}")))
}

/// How far those are trusted who reach the address of clients.
pub(crate) fn trust_of_clients(
    settings: &Settings,
    place: &Place,
    encrypts: bool,
) -> Result<Trust, Failure> {
    if is_local(place) {
        must_not_encrypt("--listen", place, encrypts)?;
        return Ok(match settings.admin_listen {
            None => Trust::Open,
            Some(_) => Trust::Everyday,
        });
    }
    must_encrypt("--listen", "--tls-cert and --tls-key", settings, place, encrypts)?;
    Ok(Trust::Everyday)
}

/// The same for the address of administrators.
pub(crate) fn trust_of_administrators(
    settings: &Settings,
    place: &Place,
    encrypts: bool,
) -> Result<Trust, Failure> {
    must_not_encrypt("--admin-listen", place, encrypts)?;
    if is_local(place) || settings.proves_administrators() {
        return Ok(Trust::Administrators);
    }
    let options = "--admin-tls-cert and --admin-tls-key";
    must_encrypt("--admin-listen", options, settings, place, encrypts)?;
    match settings.policy {
        Some(_) => Ok(Trust::Everyday),
        None => Err(Failure::usage(format!(
            "--admin-listen {place} is reached by other machines, and nothing proves who is an administrator: give \
             --admin-tls-client-ca, or a policy, or listen at 127.0.0.1"
        ))),
    }
}

fn must_encrypt(
    option: &str,
    options: &str,
    settings: &Settings,
    place: &Place,
    encrypts: bool,
) -> Result<(), Failure> {
    match encrypts || settings.insecure_listen == Some(true) {
        true => Ok(()),
        false => Err(Failure::usage(format!(
            "{option} {place} is reached by other machines, and in plain text whoever is in between reads and \
             changes what goes over it: give {options}, or --insecure-listen if that network is trusted"
        ))),
    }
}

/// Clients encrypt no connection to a socket, and nobody is in between there.
fn must_not_encrypt(option: &str, place: &Place, encrypts: bool) -> Result<(), Failure> {
    match (place, encrypts) {
        (Place::Socket(_), true) => Err(Failure::usage(format!(
            "{option} {place} is reached by this machine alone, where nothing is encrypted: leave out the TLS options, or \
             listen on an address"
        ))),
        _ => Ok(()),
    }
}

fn is_local(place: &Place) -> bool {
    place.address().is_none_or(|address| address.ip().to_canonical().is_loopback())
}

/// Where administrators are to be served: a port alone is one of this machine.
pub(crate) fn admin_place(text: &str) -> String {
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.into(),
    }
}

/// Has the access follow the files, and requests, until the program ends. `given` are the settings without those of
/// the file. Certificates are looked at by those who use them, and again at once if asked.
pub(crate) async fn follow(
    given: Settings,
    begun_with: Settings,
    access: Access,
    reloader: Reloader,
    mut requests: mpsc::Receiver<ReloadRequest>,
) {
    let mut seen = read(&begun_with).await;
    loop {
        let request = tokio::select! {
            Some(request) = requests.recv() => Some(request),
            () = SystemClock.sleep(LOOK) => None,
        };
        let now = read(&begun_with).await;
        if request.is_none() && now == seen {
            continue;
        }
        seen = now;
        let reloaded = take_up_apart(&given, &begun_with, &access).await;
        if let Some(request) = request {
            reloader.request();
            request.answer(reloaded);
        }
    }
}

/// Takes the settings up in a thread apart: a disk that hangs must not hold one of all the others'.
async fn take_up_apart(given: &Settings, begun_with: &Settings, access: &Access) -> Reloaded {
    let (given, begun_with, to_replace) = (given.clone(), begun_with.clone(), access.clone());
    let taking = move || take_up(&given, &begun_with, &to_replace);
    let failure = match tokio::task::spawn_blocking(taking).await {
        Ok(Ok(next_start)) => return Ok(next_start),
        Ok(Err(failure)) => failure.to_string(),
        Err(error) => format!("the settings could not be read: {error}"),
    };
    access.not_replaced(&failure);
    tracing::error!(
        reason = %failure,
        "the new settings are not taken up; those of before still hold"
    );
    Err(failure)
}

/// The files that are followed, as they are.
async fn read(settings: &Settings) -> Vec<Option<Vec<u8>>> {
    let files = [settings.config.clone(), settings.tokens.clone()];
    let read = move || {
        let content = |file: &Option<_>| file.as_ref().and_then(|file| fs::read(file).ok());
        files.iter().map(content).collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_default()
}

/// Returns the names of settings that have changed, and hold from the next start on alone.
fn take_up(
    given: &Settings,
    begun_with: &Settings,
    access: &Access,
) -> Result<Vec<String>, Failure> {
    let settings = given.clone().complete()?;
    if begun_with.policy.is_some() && settings.policy.is_none() {
        // A file that is just being written is empty for a moment, and would open everything.
        return Err(Failure::usage(
            "the config file has no policy any more; a server that began with one goes on without one from the next \
             start on alone",
        ));
    }
    let filter = log::filter(settings.log.as_deref())?;
    access.replace(rules(&settings)?);
    log::replace_filter(filter);
    let later = begun_with.changed_for_good(&settings);
    match later.is_empty() {
        true => tracing::info!("policy, tokens and log filter are taken up"),
        false => tracing::warn!(
            changed = later.join(", "),
            "policy, tokens and log filter are taken up; what else has changed holds from the next start on"
        ),
    }
    Ok(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn place(text: &str) -> Place {
        match text.parse() {
            Ok(address) => Place::Address(address),
            Err(_) => Place::Socket(text.into()),
        }
    }

    const SOCKET: &str = "/run/tsoracle/socket";
    const NEAR: &str = "127.0.0.1:50551";
    const FAR: &str = "0.0.0.0:50551";
    const POLICY: &str = "[policy.identities]\nops = ['admin']";

    #[test]
    fn plain_text_stays_on_the_machine() {
        let of = |text: &str, at: &str, encrypts| {
            trust_of_clients(&settings(text), &place(at), encrypts).ok()
        };
        assert_eq!(of("", NEAR, false), Some(Trust::Open));
        assert_eq!(of("", "[::1]:1", false), Some(Trust::Open));
        assert_eq!(of("", SOCKET, false), Some(Trust::Open));
        assert_eq!(of("", SOCKET, true), None);
        assert_eq!(of("admin-listen = '50552'", SOCKET, false), Some(Trust::Everyday));
        assert_eq!(of("admin-listen = '50552'", NEAR, false), Some(Trust::Everyday));
        assert_eq!(of("", FAR, false), None);
        assert_eq!(of("", "[::]:1", false), None);
        assert_eq!(of("insecure-listen = true", FAR, false), Some(Trust::Everyday));
        assert_eq!(of("insecure-listen = false", FAR, false), None);
        assert_eq!(of("", FAR, true), Some(Trust::Everyday));
    }

    #[test]
    fn whoever_reaches_the_admin_address_of_this_machine_is_trusted_and_others_prove_it() {
        let of = |text: &str, at: &str, encrypts| {
            trust_of_administrators(&settings(text), &place(at), encrypts).ok()
        };
        assert_eq!(of("", NEAR, false), Some(Trust::Administrators));
        assert_eq!(of("", SOCKET, false), Some(Trust::Administrators));
        assert_eq!(of("", SOCKET, true), None);
        assert_eq!(of(POLICY, NEAR, false), Some(Trust::Administrators));
        assert_eq!(of("", FAR, true), None);
        assert_eq!(of("insecure-listen = true", FAR, false), None);
        assert_eq!(of(POLICY, FAR, false), None);
        assert_eq!(of(POLICY, FAR, true), Some(Trust::Everyday));
        let proven = "admin-tls-client-ca = 'ca.pem'";
        assert_eq!(of(proven, FAR, true), Some(Trust::Administrators));
    }

    #[test]
    fn a_policy_leaves_somebody_who_can_change_the_cluster() {
        let nobody = "[policy.identities]\nshop = ['client']";
        let error = rules(&settings(nobody)).unwrap_err().to_string();
        assert!(error.contains("the role admin"), "{error}");
        assert!(rules(&settings(&format!("admin-listen = '1'\n{nobody}"))).is_ok());
        assert!(rules(&settings(POLICY)).is_ok());
    }

    #[test]
    fn a_port_alone_is_one_of_this_machine() {
        assert_eq!(admin_place("50552"), "127.0.0.1:50552");
        assert_eq!(admin_place(":50552"), "127.0.0.1:50552");
        assert_eq!(admin_place("10.0.0.1:50552"), "10.0.0.1:50552");
        assert_eq!(admin_place("[::1]:50552"), "[::1]:50552");
    }

    #[test]
    fn settings_that_hold_from_the_next_start_on_are_named() {
        let (before, after) = (settings(""), settings("lease = '2s'\nlog = 'debug'\n[policy]"));
        assert_eq!(before.changed_for_good(&after), ["lease"]);
        assert!(before.changed_for_good(&before).is_empty());
    }
}
