use std::{fs, future::pending, path::PathBuf, pin::pin, time::Duration};

use serde::Deserialize;
use tokio::{signal::unix::SignalKind, task::JoinHandle, time::timeout};
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, ErrorKind, LOCK_FILE, OpenContext, Oracle, OracleOptions,
    Phase, Reads, Reloader, Space, SystemClock, endless,
};
use tsoracle_server::{Builder, Place, Reloads, Server, TlsOptions};

use crate::{
    access,
    administrators::Administrators,
    drivers,
    failure::Failure,
    log, meters,
    output::print_line,
    place, recorder,
    service_manager::{ServiceManager, in_words},
    settings::{DriverChoice, Settings},
    signals::{Signals, listen_for},
    traces,
    web::{Hosts, Web},
};

const DRIVER: &str = "file";
const LISTEN: &str = "127.0.0.1:50551";

/// The share of requests that are traced if nobody says.
const TRACED: f64 = 0.01;

/// How long the line that says where this node serves waits for it to lead, or to know who does.
/// Nodes of a cluster may be started one after another, each once the one before has printed its line.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a driver that has failed may take to say whether it is excluded.
const LOOKS: Duration = Duration::from_millis(300);

/// How long reading files again may take until the service manager is told that it is done.
const RELOAD: Duration = Duration::from_secs(10);

pub(crate) async fn run(given: Settings) -> Result<(), Failure> {
    let config_file = access::content(given.config.as_deref());
    let settings = given.clone().complete()?;
    let traced = start_log(&settings)?;
    let (config, limits, tls) = (driver(&settings)?, settings.limits()?, settings.tls()?);
    let (name, options) = (config.name().to_owned(), oracle_options(&settings, &config)?);
    let advertise = settings.advertise.as_deref().map(place::endpoint).transpose()?;
    warn_of_one_authority(&config, tls.as_ref());
    let place = settings.listen.as_deref().unwrap_or(LISTEN);
    place::check_place("--listen", place)?;
    let mut signals = Signals::install()?;
    let reloader = Reloader::default();
    let (reloads, reload_requests) = Reloads::new();
    let manager = ServiceManager::from_environment()?;
    let hangups = reload_on_hangup(reloads.clone(), manager.clone())?;
    let mut hangups = pin!(endless("SIGHUP", hangups));

    let listener = place::open(place, &settings).await?;
    let place = listener.place().clone();
    let trust = access::trust_of_clients(&settings, &place, tls.is_some())?;
    let administrators = Administrators::listen(&settings).await?;
    let (access, followed) = access::open(&settings, config_file)?;
    let reached = place.address().filter(|address| !address.ip().is_unspecified());
    let service_endpoint = advertise.or_else(|| reached.map(|address| address.to_string()));
    let context =
        OpenContext { service_endpoint: service_endpoint.clone(), reload: reloader.subscribe() };
    let web = web(&settings, &name)?;
    meters::show_build(&name);
    let mut probes = pin!(endless("probes and metrics", probes(web.as_ref(), &settings)?));
    let driver = tokio::select! {
        opened = drivers::open(config, context) => opened?,
        error = probes.as_mut() => return Err(error.into()),
        error = hangups.as_mut() => return Err(error.into()),
        never = manager.opening(&name) => match never {},
        () = signals.next() => return Ok(()),
    };
    tracing::info!(connections = limits.connections, "clients may have so many connections");
    let server = Server::builder().driver(driver.clone()).options(options).limits(limits.clone());
    let server = server.access(access.trusting(trust)).reloads(reloads.clone());
    let server =
        reached_by_clients(server.reload(reloader.subscribe()), service_endpoint.clone(), tls);
    let server = if traced.is_some() { server.spans(traces::span_of) } else { server };
    let listening = server.build()?.listen_on(listener);
    let oracle = listening.oracle().clone();
    let counting = keep_up_meters(oracle.clone());
    log::report(&oracle);
    // Whatever lasts as long as the server is polled with it: in a task of its own a panic would go unnoticed.
    let announcing = announce(oracle.clone(), place, name, manager.clone());
    let notifying = manager.follow(oracle.clone());
    if let Some(web) = &web {
        web.show(oracle.clone(), service_endpoint);
    }
    let looking = keep_up_problems(web.clone());
    let is_traced = traced.is_some();
    let sending = sending(traced);
    let pages = web.map(|web| web.pages(Hosts::of(&settings)));
    let reload = reloader.subscribe();
    let administrators = administrators.serve(oracle, (&access, pages), limits, reload, reloads);
    let files = (given, settings);
    let following = access::follow(files, followed, access.clone(), reloader, reload_requests);
    let stopped = listening.serve_with_shutdown(stopping(signals, &manager));
    let ended = tokio::select! {
        served = served(stopped, &*driver) => served,
        error = probes => Err(error.into()),
        error = hangups => Err(error.into()),
        error = endless("policy", following) => Err(error.into()),
        error = endless("the line that says where it serves", announcing) => Err(error.into()),
        error = endless("the service manager", notifying) => Err(error.into()),
        error = endless("counting", counting) => Err(error.into()),
        error = endless("what is wrong", looking) => Err(error.into()),
        error = endless("traces", sending) => Err(error.into()),
        failed = administrators => failed,
    };
    if is_traced {
        traces::flush(ended.is_ok()).await;
    }
    ended
}

/// The driver that is chosen, if this build has it.
fn driver(settings: &Settings) -> Result<DriverConfig, Failure> {
    let config = match &settings.driver {
        Some(DriverChoice(config)) => config.clone(),
        None => DriverConfig::parse(DRIVER)?,
    };
    drivers::check(config.name())?;
    if settings.require_state == Some(true) {
        require_state(&config)?;
    }
    Ok(config)
}

/// How the oracle over this driver serves.
fn oracle_options(settings: &Settings, config: &DriverConfig) -> Result<OracleOptions, Failure> {
    let space = drivers::directory(config)?
        .map(|directory| Space { directory, reserve: settings.reserve_bytes });
    Ok(OracleOptions { space, ..settings.oracle_options()? })
}

/// Says where clients reach the server, and whether they speak TLS with it.
fn reached_by_clients(
    server: Builder,
    endpoint: Option<String>,
    tls: Option<TlsOptions>,
) -> Builder {
    let server = match endpoint {
        Some(endpoint) => server.advertise(endpoint),
        None => server,
    };
    match tls {
        Some(tls) => server.tls(tls),
        None => server,
    }
}

/// Waits until this process is asked to stop.
async fn stopping(mut signals: Signals, manager: &ServiceManager) {
    signals.next().await;
    manager.stopping();
    tracing::info!("stopping; a second signal exits at once");
    tokio::spawn(async move {
        signals.next().await;
        log::flush();
        std::process::exit(1);
    });
}

/// Logs from now on. The task that sends traces, if requests are traced.
fn start_log(settings: &Settings) -> Result<Option<JoinHandle<()>>, Failure> {
    let (layer, sending) = start_traces(settings)?.unzip();
    let (filter, format) =
        (log::filter(settings.log.as_deref())?, settings.log_format.unwrap_or_default());
    log::start(filter, format, layer.into_iter().collect())?;
    Ok(sending)
}

/// Traces requests, if they are to be.
fn start_traces(settings: &Settings) -> Result<Option<(log::BoxedLayer, JoinHandle<()>)>, Failure> {
    let ratio = settings.trace_ratio.unwrap_or(TRACED);
    if !(0.0..=1.0).contains(&ratio) {
        return Err(Failure::usage(format!("--trace-ratio is from 0 to 1, not {ratio}")));
    }
    match (settings.otlp_endpoint.as_deref(), settings.otlp_ca.as_deref()) {
        (Some(endpoint), authorities) => traces::start(endpoint, authorities, ratio).map(Some),
        (None, Some(_)) => {
            Err(Failure::usage("--otlp-ca goes with --otlp-endpoint https://HOST:PORT"))
        }
        (None, None) => Ok(None),
    }
}

/// Keeps up what is counted, if anybody can see it.
async fn keep_up_meters(oracle: Oracle) {
    match recorder::is_installed() {
        true => match meters::keep_up(oracle).await {},
        false => pending().await,
    }
}

/// Looks what is wrong, if there is an address at which that is told.
async fn keep_up_problems(web: Option<Web>) {
    match web {
        Some(web) => web.keep_up().await,
        None => pending().await,
    }
}

/// Waits for the task that sends traces, and panics as it has.
async fn sending(task: Option<JoinHandle<()>>) {
    let Some(task) = task else { return pending().await };
    if let Err(error) = task.await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// What is told over plain HTTP, if there is an address for that.
fn web(settings: &Settings, driver: &str) -> Result<Option<Web>, Failure> {
    if settings.admin_listen.is_none() && settings.probe_listen()?.is_none() {
        return Ok(None);
    }
    Ok(Some(Web::new(driver, recorder::install()?)))
}

/// Answers probes, and whoever scrapes, if there is an address for that.
fn probes(
    web: Option<&Web>,
    settings: &Settings,
) -> Result<impl Future<Output = ()> + use<>, Failure> {
    let serving = match (web, settings.probe_listen()?) {
        (Some(web), Some(address)) => Some(web.serve_probes(address)?),
        _ => None,
    };
    Ok(async move {
        match serving {
            Some(serving) => serving.await,
            None => pending().await,
        }
    })
}

/// Has whatever was read from files read again on each SIGHUP.
fn reload_on_hangup(
    reloads: Reloads,
    manager: ServiceManager,
) -> Result<impl Future<Output = ()>, Failure> {
    let mut hangup = listen_for(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: certificates, keys, policy and tokens are read again");
            manager.reloading(timeout(RELOAD, reloads.ask())).await;
        }
    })
}

/// How serving has ended. If the cluster goes on without this node, that is the reason.
async fn served(
    stopped: impl Future<Output = tsoracle_core::Result<()>>,
    driver: &dyn ConsensusDriver,
) -> Result<(), Failure> {
    let Err(error) = stopped.await else { return Ok(()) };
    // A disk that hangs would keep the process.
    match timeout(LOOKS, driver.read(&Reads::default())).await {
        Ok(Err(excluded)) if *excluded.kind() == ErrorKind::Excluded => Err(excluded.into()),
        _ => Err(error.into()),
    }
}

/// Warns if clients have certificates of the authority that the nodes of a cluster trust each other by.
fn warn_of_one_authority(config: &DriverConfig, tls: Option<&TlsOptions>) {
    #[derive(Deserialize)]
    struct Peers {
        peer_ca: Option<PathBuf>,
    }
    let Ok(Peers { peer_ca: Some(peer_ca) }) = config.options() else { return };
    let Ok(authorities) = fs::read(&peer_ca) else { return };
    if tls.is_some_and(|tls| tls.lets_in_what_is_signed_by(&authorities)) {
        tracing::warn!(
            peer_ca = %peer_ca.display(),
            "the authority that nodes are trusted by signs certificates of clients, too: a client whose certificate \
             names a node may speak as it; use an authority for peers alone"
        );
    }
}

/// Says once where this node serves, when it does or when it will not for now. Never returns.
async fn announce(oracle: Oracle, place: Place, driver: String, manager: ServiceManager) {
    say_where(oracle, place, driver, manager).await;
    pending().await
}

async fn say_where(oracle: Oracle, place: Place, driver: String, manager: ServiceManager) {
    let mut phase = oracle.phase();
    let settled =
        phase.wait_for(|phase| !matches!(phase, Phase::Electing | Phase::TakingOver { .. }));
    tokio::select! {
        _ = settled => {}
        () = SystemClock.sleep(SETTLE) => {}
    }
    let state = match &*oracle.phase().borrow() {
        // It stops, or has failed.
        Phase::Stopping | Phase::Failed(_) => return,
        phase => in_words(phase),
    };
    manager.ready();
    let line = format!("tsoracle serving on {place} (driver {driver}, {state})");
    // Nobody may be reading, so that it takes for ever.
    let printed = tokio::task::spawn_blocking({
        let line = line.clone();
        move || print_line(&line)
    });
    if !matches!(printed.await, Ok(Ok(()))) {
        tracing::warn!("standard output is closed; {line}");
    }
}

/// Finds the file that every directory with a state has.
fn require_state(config: &DriverConfig) -> Result<(), Failure> {
    let Some(directory) = drivers::directory(config)? else {
        let name = config.name();
        return Err(Failure::usage(format!(
            "--require-state: {name} keeps no state in a directory"
        )));
    };
    match directory.join(LOCK_FILE).is_file() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "there is no state in {}, and none is begun with --require-state; is the volume mounted?",
            directory.display()
        ))),
    }
}
