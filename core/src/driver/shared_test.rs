use std::sync::{Mutex, MutexGuard};

use tokio::{sync::Notify, time::timeout};

use super::*;

/// How long to wait for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that answers what a test has it answer.
#[derive(Clone, Debug, Default)]
struct Service(Arc<Mutex<Answers>>, Arc<Notify>);

#[derive(Debug)]
struct Answers {
    version: Version,
    elected: Elected,
    fails: Option<ErrorKind>,
    panics: bool,
    /// What each look was told of whether this node may lead, since leadership was given up last.
    looks: Vec<bool>,
    given_up: usize,
    /// Commits wait until the test lets them go on.
    holds_commits: bool,
    committed: usize,
}

impl Default for Answers {
    fn default() -> Self {
        let (looks, given_up, committed) = Default::default();
        let (version, elected, fails) = (version(1, 5), Elected::This(7), None);
        let (panics, holds_commits) = (false, false);
        Self { version, elected, fails, panics, looks, given_up, holds_commits, committed }
    }
}

fn version(era: u64, number: u64) -> Version {
    Version { era, number, name: 1 }
}

impl Service {
    fn now(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap()
    }

    fn answers(&self) -> Result<Version> {
        let now = self.now();
        let answer = now.fails.clone().map_or(Ok(now.version), Err);
        answer.map_err(|kind| Error::new(kind, "as the test wants it"))
    }

    async fn open(&self) -> Arc<SharedDriver<Self>> {
        SharedDriver::open(self.clone(), Duration::from_millis(50)).await.unwrap()
    }

    async fn until<T>(&self, what: impl Fn(&Answers) -> Option<T>) -> T {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            if let Some(found) = what(&self.now()) {
                return found;
            }
            assert!(SystemClock.now().boot < until, "it did not come to that: {self:?}");
            SystemClock.sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl SharedStore for Service {
    const LIMITS: CommitLimits = CommitLimits { writes: 1, bytes: 1 };

    async fn read(&self, _: &Reads) -> Result<Snapshot> {
        Ok(Snapshot { version: self.answers()?, ..Snapshot::default() })
    }

    async fn commit(&self, base: Version, next: Version, _: &Effect) -> Result<Version> {
        while self.now().holds_commits {
            self.1.notified().await;
        }
        let found = self.answers()?;
        if found == base {
            self.now().version = next;
        }
        self.now().committed += 1;
        Ok(found)
    }

    async fn elect(&self, may_lead: bool) -> Result<Election> {
        self.now().looks.push(may_lead);
        assert!(!self.now().panics, "as the test wants it");
        let (version, again) = (self.answers()?, Duration::from_millis(1));
        Ok(Election { version, elected: self.now().elected.clone(), again })
    }

    async fn give_up(&self) -> Result<()> {
        let mut now = self.now();
        now.given_up += 1;
        now.looks.clear();
        now.elected = Elected::None;
        Ok(())
    }
}

async fn shows(driver: &SharedDriver<Service>, what: impl Fn(&Leadership) -> bool) -> Leadership {
    let mut leadership = driver.leadership();
    let waited = timeout(PATIENCE, leadership.wait_for(what)).await;
    waited.expect("it did not come to that").expect("the channel has closed").clone()
}

async fn leads(driver: &SharedDriver<Service>, claim: u64) {
    shows(driver, |now| *now == Leadership::Leader { claim }).await;
}

fn effect(next: Version) -> Effect {
    let mut effect = Effect::default();
    effect.set_version(next);
    effect
}

#[tokio::test]
async fn each_election_is_a_claim_of_its_own() {
    let service = Service::default();
    let driver = service.open().await;
    leads(&driver, 1).await;
    service.now().looks.clear();
    service.until(|now| (now.looks.len() > 2).then_some(())).await;
    assert_eq!(*driver.leadership.borrow(), Leadership::Leader { claim: 1 }, "won once");
    service.now().elected = Elected::This(8);
    leads(&driver, 2).await;
    service.now().elected = Elected::Other("b:1".into());
    let hint = LeaderHint { endpoint: "b:1".into(), epoch: None };
    shows(&driver, |now| *now == Leadership::Follower { leader: Some(hint.clone()) }).await;
    service.now().elected = Elected::Other(String::new());
    shows(&driver, |now| *now == Leadership::Follower { leader: None }).await;
    service.now().elected = Elected::None;
    shows(&driver, |now| *now == Leadership::Unknown).await;
    service.now().elected = Elected::This(8);
    leads(&driver, 3).await;
}

#[tokio::test]
async fn a_node_that_resigns_gives_up_and_lets_the_others_go_first() {
    let service = Service::default();
    let driver = service.open().await;
    assert!(!service.now().looks[0], "the first look stands for no election");
    leads(&driver, 1).await;
    driver.resign(2).await;
    driver.resign(1).await;
    shows(&driver, |now| *now == Leadership::Unknown).await;
    let first = service.until(|now| now.looks.first().copied()).await;
    assert!(!first, "it stands for election although it has resigned");
    service.until(|now| now.looks.last().copied().filter(|may_lead| *may_lead)).await;
    service.now().elected = Elected::This(7);
    leads(&driver, 2).await;
    assert_eq!(service.now().given_up, 1);
    driver.resign(1).await;
    service.now().looks.clear();
    service.until(|now| (now.looks.len() > 2).then_some(())).await;
    assert_eq!(service.now().given_up, 1, "a claim that is over was resigned");
}

#[tokio::test]
async fn a_service_that_is_silent_ends_a_claim_and_not_the_driver() {
    let service = Service::default();
    let driver = service.open().await;
    leads(&driver, 1).await;
    service.now().fails = Some(ErrorKind::Config);
    shows(&driver, |now| *now == Leadership::Unknown).await;
    service.until(|now| (now.given_up > 0).then_some(())).await;
    let error = driver.read(&Reads::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    service.now().fails = None;
    service.now().elected = Elected::This(7);
    leads(&driver, 2).await;
}

#[tokio::test]
async fn a_first_look_that_no_other_mends_is_an_error() {
    let service = Service::default();
    for kind in [ErrorKind::Config, ErrorKind::Corrupt, ErrorKind::Fatal] {
        service.now().fails = Some(kind.clone());
        let opened = SharedDriver::open(service.clone(), Duration::from_secs(1)).await;
        assert_eq!(*opened.unwrap_err().kind(), kind);
    }
    service.now().fails = Some(ErrorKind::Unavailable);
    let driver = service.open().await;
    service.now().fails = None;
    leads(&driver, 1).await;
}

#[tokio::test]
async fn what_the_service_was_at_decides_a_commit() {
    let service = Service::default();
    let driver = service.open().await;
    let (base, next) = (version(1, 5), version(1, 6));
    assert!(driver.seen(&base).is_some(), "looks are evidence");
    assert_eq!(driver.seen(&next), None);
    let commit = async || driver.commit(base, effect(next)).await;
    for _ in 0..2 {
        assert_eq!(commit().await.unwrap(), Outcome::Stored);
        assert!(driver.seen(&next).is_some());
    }
    let found = Version { name: 2, ..next };
    service.now().version = found;
    assert_eq!(commit().await.unwrap(), Outcome::Conflict { found });
    for behind in [version(1, 4), version(0, 9)] {
        service.now().version = behind;
        assert_eq!(*commit().await.unwrap_err().kind(), ErrorKind::Uncertain);
    }
}

#[tokio::test]
async fn an_error_says_no_more_than_the_contract_has_it() {
    let service = Service::default();
    let driver = service.open().await;
    let base = version(1, 5);
    let commit = async || driver.commit(base, effect(version(1, 6))).await.unwrap_err();
    for (kind, of_a_commit) in [
        (ErrorKind::Config, ErrorKind::Unavailable),
        (ErrorKind::Unavailable, ErrorKind::Unavailable),
        (ErrorKind::Uncertain, ErrorKind::Uncertain),
    ] {
        service.now().fails = Some(kind);
        assert_eq!(*commit().await.kind(), of_a_commit);
        let error = driver.read(&Reads::default()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn an_error_that_is_final_or_a_panic_ends_the_driver_for_good() {
    for is_panic in [false, true] {
        let service = Service::default();
        let driver = service.open().await;
        leads(&driver, 1).await;
        let (kind, panics) = match is_panic {
            false => (Some(ErrorKind::Corrupt), false),
            true => (None, true),
        };
        (service.now().fails, service.now().panics) = (kind.clone(), panics);
        let mut leadership = driver.leadership();
        let closing = async { while leadership.changed().await.is_ok() {} };
        timeout(PATIENCE, closing).await.expect("the channel of leadership is closed");
        (service.now().fails, service.now().panics) = (None, false);
        let kind = kind.unwrap_or(ErrorKind::Fatal);
        let error = driver.read(&Reads::default()).await.unwrap_err();
        assert_eq!(*error.kind(), kind);
        let commit = driver.commit(version(1, 5), effect(version(1, 6))).await;
        assert_eq!(*commit.unwrap_err().kind(), kind);
        assert_eq!(service.now().committed, 0);
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn commits_in_flight_end_before_leadership_does() {
    let service = Service::default();
    let driver = service.open().await;
    leads(&driver, 1).await;
    service.now().holds_commits = true;
    let commit = driver.commit(version(1, 5), effect(version(1, 6)));
    // It is given up by its caller, and goes on.
    assert!(timeout(Duration::from_millis(1), commit).await.is_err());
    let stopping = driver.shutdown();
    tokio::pin!(stopping);
    assert!(futures::poll!(&mut stopping).is_pending());
    let late = driver.commit(version(1, 5), effect(version(1, 6))).await;
    assert_eq!(*late.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(service.now().given_up, 0, "it still leads");
    service.now().holds_commits = false;
    service.1.notify_waiters();
    stopping.await.unwrap();
    assert_eq!(service.now().committed, 1);
    assert_eq!(service.now().given_up, 1);
    assert!(driver.leadership().has_changed().is_err(), "the channel is open");
}

#[tokio::test]
async fn a_driver_that_is_dropped_gives_up() {
    let service = Service::default();
    let driver = service.open().await;
    leads(&driver, 1).await;
    drop(driver);
    service.until(|now| (now.given_up > 0).then_some(())).await;
}
