use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use crate::{
    ConsensusDriver, DriverConfig, Error, ErrorKind, LocalDriver, MemoryStore, Reload, Result,
};

/// The future of an open driver.
pub type OpenFuture = Pin<Box<dyn Future<Output = Result<Arc<dyn ConsensusDriver>>> + Send>>;

/// How to open one kind of driver, and what a person should know about it.
#[derive(Clone, Copy, Debug)]
pub struct DriverFactory {
    /// The name in config strings.
    pub name: &'static str,
    /// One line on what it is for.
    pub summary: &'static str,
    /// Every option it takes.
    pub options: &'static [DriverOption],
    /// Opens it.
    pub open: fn(DriverConfig, OpenContext) -> OpenFuture,
}

/// An option of a driver, for help texts.
#[derive(Clone, Copy, Debug)]
pub struct DriverOption {
    /// The key in config strings and tables.
    pub name: &'static str,
    /// The value if none is given, as text.
    pub default: &'static str,
    /// One line on what it does.
    pub help: &'static str,
}

/// What a driver may want to know of the process it runs in.
#[derive(Clone, Default, Debug)]
pub struct OpenContext {
    /// `host:port` where clients reach this node's service, if one runs.
    pub service_endpoint: Option<String>,
    /// Tells when files that the driver has read, certificates for example, are to be read again.
    pub reload: Reload,
}

/// The drivers of this build, by name.
#[derive(Clone, Default, Debug)]
pub struct Registry(BTreeMap<&'static str, DriverFactory>);

#[doc(hidden)]
pub struct Linked(pub DriverFactory);

inventory::collect!(Linked);

/// Registers a [`DriverFactory`] at link time, to be found by [`Registry::linked`].
///
/// The crate that says it must be used by the program: a linker drops a dependency that is
/// not named. `use my_driver as _;` is enough.
#[macro_export]
macro_rules! register_driver {
    ($factory:expr) => {
        $crate::inventory::submit! { $crate::Linked($factory) }
    };
}

impl Registry {
    /// Every driver linked into this program.
    ///
    /// # Errors
    /// `Config` if two have the same name.
    pub fn linked() -> Result<Self> {
        inventory::iter::<Linked>().try_fold(Self::default(), |all, linked| all.register(linked.0))
    }

    /// Adds a driver, for programs that want no link-time registration.
    ///
    /// # Errors
    /// `Config` if one of that name is registered already.
    pub fn register(mut self, factory: DriverFactory) -> Result<Self> {
        match self.0.insert(factory.name, factory) {
            None => Ok(self),
            Some(_) => Err(Error::new(
                ErrorKind::Config,
                format!("two drivers are named {:?}; one must go", factory.name),
            )),
        }
    }

    /// The drivers, by name.
    pub fn drivers(&self) -> impl Iterator<Item = &DriverFactory> {
        self.0.values()
    }

    /// The driver of that name.
    ///
    /// # Errors
    /// `Config` for an unknown name, with those of this build.
    pub fn find(&self, name: &str) -> Result<&DriverFactory> {
        self.0.get(name).ok_or_else(|| {
            let names: Vec<_> = self.0.keys().copied().collect();
            let names = names.join(", ");
            let context = format!("there is no driver {name:?} in this build; it has {names}");
            Error::new(ErrorKind::Config, context)
        })
    }

    /// Opens the driver that `config` names.
    ///
    /// # Errors
    /// As [`find`](Self::find); otherwise the driver's own.
    pub async fn open(
        &self,
        config: DriverConfig,
        context: OpenContext,
    ) -> Result<Arc<dyn ConsensusDriver>> {
        let open = self.find(config.name())?.open;
        open(config, context).await
    }
}

/// The options of the memory driver: none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryOptions {}

register_driver!(DriverFactory {
    name: "memory",
    summary: "FORGETS EVERYTHING when it stops; for tests and trials only",
    options: &[],
    open: |config, _| Box::pin(async move {
        let MemoryOptions {} = config.options()?;
        tracing::warn!(
            "the memory driver forgets everything when it stops: timestamps and sequence numbers \
             WILL repeat; never use it for data that is kept"
        );
        Ok(LocalDriver::open(MemoryStore::default()).await? as Arc<dyn ConsensusDriver>)
    }),
});

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_driver_is_found_by_name() {
        let registry = Registry::linked().unwrap();
        assert_eq!(registry.drivers().map(|d| d.name).collect::<Vec<_>>(), ["memory"]);
        let config = DriverConfig::parse("memory").unwrap();
        let driver = registry.open(config, OpenContext::default()).await.unwrap();
        driver.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn an_unknown_name_or_option_says_what_there_is() {
        let registry = Registry::linked().unwrap();
        let open = async |text| {
            let config = DriverConfig::parse(text).unwrap();
            registry.open(config, OpenContext::default()).await.unwrap_err().to_string()
        };
        let text = open("memroy").await;
        assert!(text.contains("\"memroy\"") && text.contains("memory"), "{text}");
        let text = open("memory?size=1").await;
        assert!(text.contains("`size`"), "{text}");
    }

    #[test]
    fn two_drivers_of_one_name_are_refused() {
        let registry = Registry::linked().unwrap();
        let memory = *registry.drivers().next().unwrap();
        let error = registry.register(memory).unwrap_err();
        assert!(error.to_string().contains("\"memory\""));
    }
}
