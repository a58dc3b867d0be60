//! Who may do what at this server, as its settings say, and say again when their files change.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tokio::sync::mpsc;
use tsoracle_core::{Clock as _, Reloader, SystemClock};
use tsoracle_server::{
    Access, Audit, Place, Policy, ReloadRequest, Reloaded, Rules, TokenRecord, Tokens, Trust,
};

use crate::{
    failure::{Failure, usage_if_config},
    log::{self, Format},
    settings::Settings,
};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Who may do what, by the settings, whose file had this content before they were read.
pub(crate) fn open(
    settings: &Settings,
    config: Option<Vec<u8>>,
) -> Result<(Access, Followed), Failure> {
    let followed = Followed { config, tokens: content(settings.tokens.as_deref()) };
    let audit = match (&settings.audit_log, settings.log_format) {
        (Some(path), _) => Audit::new(log::to_file(path)?),
        (None, Some(Format::Json)) => Audit::new(log::audited),
        (None, _) => Audit::default(),
    };
    Ok((Access::new(rules(settings)?, audit), followed))
}

fn rules(settings: &Settings) -> Result<Rules, Failure> {
    let policy = settings.policy.as_ref().map(Policy::new).transpose().map_err(usage_if_config)?;
    let tokens = settings.tokens.as_deref().map(tokens).transpose()?;
    if let Some(policy) = &policy {
        if !policy.has_admin() && !has_address_that_proves(settings) {
            return Err(Failure::usage(
                "the policy gives nobody the right \"cluster\", and there is no admin address of this machine alone, so \
                 that nobody could change the cluster; give an identity the role admin, or set --admin-listen PORT",
            ));
        }
        if policy.lists_identities() && !settings.proves_identities() {
            tracing::warn!(
                "nothing proves the identities of the policy: give --tokens, or --tls-client-ca with certificates"
            );
        }
        if policy.lets_anonymous_administrate() {
            tracing::warn!(
                "by the policy clients that prove nothing may change the cluster, or what belongs to others: give \
                 such rights to identities"
            );
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
    if settings.proves_administrators() {
        // A certificate may have no name, or one of which the policy says nothing: that is no administrator's then.
        return Ok(match settings.policy {
            Some(_) => Trust::Everyday,
            None => Trust::Administrators,
        });
    }
    if is_local(place) {
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

/// Whether there is an address whose reach alone proves an administrator.
fn has_address_that_proves(settings: &Settings) -> bool {
    let Some(place) = settings.admin_listen.as_deref().map(admin_place) else { return false };
    let is_local = match place.parse::<SocketAddr>() {
        Ok(address) => is_local(&Place::Address(address)),
        Err(_) => place.starts_with("unix:") || place.starts_with("localhost:"),
    };
    is_local && !settings.proves_administrators()
}

/// Has the access follow the files, and requests, until the program ends. `given` are the settings without those of
/// the file. Certificates are looked at by those who use them, and again at once if asked. `seen` is what the files
/// held before they were read: between that and now a driver may have been opened for a long time.
pub(crate) async fn follow(
    (given, begun_with): (Settings, Settings),
    mut seen: Followed,
    access: Access,
    reloader: Reloader,
    mut requests: mpsc::Receiver<ReloadRequest>,
) {
    let mut in_use = InUse { settings: begun_with.clone(), tokens: seen.tokens.clone() };
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
        let (reloaded, in_use_now) =
            take_up_apart(&given, &begun_with, in_use, seen.tokens.clone(), &access).await;
        in_use = in_use_now;
        if let Some(request) = request {
            reloader.request();
            request.answer(reloaded);
        }
    }
}

/// What holds at the moment.
#[derive(Clone, Debug)]
struct InUse {
    settings: Settings,
    /// The content of their file.
    tokens: Option<Vec<u8>>,
}

/// Takes the settings up in a thread apart: a disk that hangs must not hold one of all the others'.
async fn take_up_apart(
    given: &Settings,
    begun_with: &Settings,
    in_use: InUse,
    tokens: Option<Vec<u8>>,
    access: &Access,
) -> (Reloaded, InUse) {
    let (given, begun_with, to_replace) = (given.clone(), begun_with.clone(), access.clone());
    let before = in_use.clone();
    let taking = move || match take_up(&given, &begun_with, &to_replace) {
        Ok((next_start, settings)) => (Ok(next_start), InUse { settings, tokens }),
        Err(failure) if tokens == before.tokens => (Err(failure), before),
        Err(failure) => {
            let in_use = take_up_tokens(before, tokens, &to_replace);
            (Err(failure), in_use)
        }
    };
    let (failure, in_use) = match tokio::task::spawn_blocking(taking).await {
        Ok((Ok(next_start), in_use)) => return (Ok(next_start), in_use),
        Ok((Err(failure), in_use)) => (failure.to_string(), in_use),
        Err(error) => (format!("the settings could not be read: {error}"), in_use),
    };
    access.not_replaced(&failure);
    tracing::error!(
        reason = %failure,
        "the new settings are not taken up; those of before still hold"
    );
    (Err(failure), in_use)
}

/// Takes up tokens under the policy of before: whatever else is wrong, one that was revoked must not hold on.
fn take_up_tokens(in_use: InUse, tokens: Option<Vec<u8>>, access: &Access) -> InUse {
    match rules(&in_use.settings) {
        Ok(rules) => {
            access.replace(rules);
            tracing::info!("tokens are taken up");
            InUse { tokens, ..in_use }
        }
        // It is what is wrong.
        Err(_) => in_use,
    }
}

/// The files that are followed, as they are.
#[derive(PartialEq, Debug)]
pub(crate) struct Followed {
    config: Option<Vec<u8>>,
    tokens: Option<Vec<u8>>,
}

/// The content of a file, if there is one that can be read.
pub(crate) fn content(file: Option<&Path>) -> Option<Vec<u8>> {
    file.and_then(|file| fs::read(file).ok())
}

async fn read(settings: &Settings) -> Followed {
    let (config, tokens) = (settings.config.clone(), settings.tokens.clone());
    let read =
        move || Followed { config: content(config.as_deref()), tokens: content(tokens.as_deref()) };
    let nothing = Followed { config: None, tokens: None };
    tokio::task::spawn_blocking(read).await.unwrap_or(nothing)
}

/// Returns the names of settings that have changed, and hold from the next start on alone; and those that hold now.
fn take_up(
    given: &Settings,
    begun_with: &Settings,
    access: &Access,
) -> Result<(Vec<String>, Settings), Failure> {
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
    Ok((later, settings))
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
        for place in [NEAR, FAR] {
            assert_eq!(of(proven, place, true), Some(Trust::Administrators));
            // Of whom the policy says nothing, and who has a certificate without a name, is none.
            let told = format!("{proven}\n{POLICY}");
            assert_eq!(of(&told, place, true), Some(Trust::Everyday));
        }
    }

    #[test]
    fn a_policy_leaves_somebody_who_can_change_the_cluster() {
        let nobody = "[policy.identities]\nshop = ['client']";
        let error = rules(&settings(nobody)).unwrap_err().to_string();
        assert!(error.contains("the role admin"), "{error}");
        for (place, is_enough) in [
            ("1", true),
            (":1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("unix:/run/tsoracle", true),
            ("0.0.0.0:1", false),
            ("db1:1", false),
        ] {
            let text = format!("admin-listen = '{place}'\n{nobody}");
            assert_eq!(rules(&settings(&text)).is_ok(), is_enough, "{place}");
            let text = format!("admin-tls-client-ca = 'ca.pem'\n{text}");
            assert!(rules(&settings(&text)).is_err(), "{place}: it is asked for a name");
        }
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

    #[tokio::test]
    async fn what_changes_before_the_files_are_followed_is_taken_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("config.toml"), format!("tokens = {:?}\n{POLICY}", path("tokens"))).unwrap();
        let name = tsoracle_core::Identity::new("ops").unwrap();
        let record = serde_json::to_string(&TokenRecord::new(&name, [1; 32], "").1).unwrap();
        fs::write(path("tokens"), record).unwrap();
        let mut given = settings("");
        given.config = Some(path("config.toml"));
        let config = content(given.config.as_deref());
        let begun_with = given.clone().complete().unwrap();
        let (_, followed) = open(&begun_with, config).unwrap();
        let (sender, mut audited) = mpsc::unbounded_channel();
        let audit = Audit::new(move |line| drop(sender.send(line.to_owned())));
        let access = Access::new(rules(&begun_with).unwrap(), audit);
        // While a driver is opened, the token is revoked.
        fs::write(path("tokens"), "").unwrap();
        let (_reloads, requests) = tsoracle_server::Reloads::new();
        let reloader = Reloader::default();
        let following = follow((given, begun_with), followed, access, reloader, requests);
        let taken_up = tokio::select! {
            () = following => None,
            line = audited.recv() => line,
        };
        let line = taken_up.expect("it is on record");
        assert!(line.contains("\"reload\"") && line.contains("\"OK\""), "{line}");
    }
}
