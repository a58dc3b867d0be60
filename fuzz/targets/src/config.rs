use serde::de::DeserializeOwned;
use tsoracle_core::DriverConfig;

pub(crate) fn string(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    DriverConfig::parse(text).is_ok_and(|config| options(&config))
}

pub(crate) fn table(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let Ok(table) = text.parse::<toml::Table>() else { return false };
    let Ok(config) = DriverConfig::from_table(table.clone()) else { return false };
    assert_eq!(config.keys().len() + 1, table.len());
    options(&config)
}

/// Whether these are the options of a driver.
fn options(config: &DriverConfig) -> bool {
    assert!(!format!("{config:?}").is_empty());
    let is_local = read::<tsoracle_file::Config>(config).is_some();
    let replicated = read::<tsoracle_replica::Config>(config);
    let is_replicated = replicated.is_some();
    // Certificates are files, which are not looked for.
    let replicated = replicated.filter(|config| {
        config.peer_ca.is_none() && config.peer_cert.is_none() && config.peer_key.is_none()
    });
    if let Some(Ok(cluster)) = replicated.map(tsoracle_replica::Config::check) {
        assert!(cluster.members.contains_key(&cluster.node));
    }
    is_local || is_replicated
}

fn read<T: DeserializeOwned>(config: &DriverConfig) -> Option<T> {
    config.options().ok()
}
