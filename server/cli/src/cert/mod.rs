//! Certificates for a cluster that has no authority of its own.

mod authority;
mod files;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use serde::Serialize;
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_tls::date;
use x509_parser::time::ASN1Time;

use self::{
    authority::{Authority, CLIENTS, NODES},
    files::Pair,
};
use crate::{failure::Failure, output::Output};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle cert ca
  tsoracle cert node 1 --address db1.example.com --address 10.0.0.1
  tsoracle cert client billing
  tsoracle cert admin
  tsoracle cert node 1 --address db1.example.com --force   a new one, before the old one expires

`ca` makes two authorities: ca.pem signs nodes, client-ca.pem clients, so that no
client can speak as a node. Their keys belong where no node runs.

A node's certificate carries its addresses, the name node-ID.CLUSTER and
tsoracle:node/ID. A client's has its name as its subject and in
tsoracle:client/NAME. A name gives no right: what each name may do is for the
server's policy to say, and that holds for `admin` too.

A server that runs takes up new files by itself within seconds, and at once on
SIGHUP. OPERATIONS.md walks through a secure cluster, and a change of authorities.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// How long a certificate is valid: as long as the strictest clients take one.
const DAYS: u32 = 825;

/// How long an authority is.
const CA_DAYS: u32 = 3_650;

/// A century. A longer time is a mistake.
const MAX_DAYS: i64 = 36_500;

/// How long before now they are valid already, for machines whose clocks are behind.
const BEFORE: i64 = 3_600;

/// 2025: nothing was certified before this program was written, so that the clock is wrong.
const EARLIEST: i64 = 1_735_689_600;

const SECONDS_PER_DAY: i64 = 86_400;

/// What certificates hold as the name of a subject at most.
const MAX_NAME_BYTES: usize = 64;

/// What to make.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make the authorities: one that signs nodes, and one that signs clients
    Ca(CaArguments),
    /// Make the certificate of a node, for its peers and for its clients
    Node(NodeArguments),
    /// Make the certificate of a client, with the name that a policy knows it by
    Client(ClientArguments),
    /// Make the certificate of an administrator: that of a client, named admin
    Admin(AdminArguments),
}

/// What all of them take.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// The directory of the authorities, and of what is made
    #[arg(long, value_name = "DIR", default_value = "tsoracle-certs")]
    dir: PathBuf,

    /// Replace the files if they exist
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle cert ca`.
#[derive(Args, Debug)]
pub(crate) struct CaArguments {
    /// How many days they are valid
    #[arg(long, value_name = "N", default_value_t = CA_DAYS,
          value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    days: u32,

    #[command(flatten)]
    common: Common,
}

/// How long what an authority signs is valid.
#[derive(Args, Debug)]
struct Validity {
    /// How many days it is valid; never longer than its authority
    #[arg(long, value_name = "N", default_value_t = DAYS,
          value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    days: u32,
}

/// Options of `tsoracle cert node`.
#[derive(Args, Debug)]
pub(crate) struct NodeArguments {
    /// The node's number in the cluster, from 1
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    id: u32,

    /// Where peers and clients reach it: a name or an IP address, without a port; several may be given
    #[arg(long, value_name = "HOST", required = true, value_delimiter = ',', value_parser = host)]
    address: Vec<SanType>,

    /// The cluster's name, for peer_names=node
    #[arg(long, value_name = "NAME", default_value = "tsoracle")]
    cluster: String,

    #[command(flatten)]
    validity: Validity,

    #[command(flatten)]
    common: Common,
}

/// Options of `tsoracle cert client`.
#[derive(Args, Debug)]
pub(crate) struct ClientArguments {
    /// What a policy knows it by: letters, digits, and . _ - @
    #[arg(value_parser = client_name)]
    name: String,

    #[command(flatten)]
    validity: Validity,

    #[command(flatten)]
    common: Common,
}

/// Options of `tsoracle cert admin`.
#[derive(Args, Debug)]
pub(crate) struct AdminArguments {
    /// What a policy knows it by: letters, digits, and . _ - @
    #[arg(value_parser = client_name, default_value = ADMIN)]
    name: String,

    #[command(flatten)]
    validity: Validity,

    #[command(flatten)]
    common: Common,
}

const ADMIN: &str = "admin";

/// What was made, for programs.
#[derive(Serialize)]
struct Made<'a> {
    certificate: &'a Path,
    key: &'a Path,
    names: Vec<String>,
    expires: String,
}

#[derive(Serialize)]
struct All<'a> {
    made: Vec<Made<'a>>,
}

pub(crate) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Ca(arguments) => ca(&arguments),
        Command::Node(arguments) => node(arguments),
        Command::Client(ClientArguments { name, validity, common }) => {
            client(&name, &format!("client-{name}"), validity.days, &common)
        }
        Command::Admin(AdminArguments { name, validity, common }) => {
            let stem = if name == ADMIN { ADMIN.into() } else { format!("admin-{name}") };
            client(&name, &stem, validity.days, &common)
        }
    }
}

fn ca(CaArguments { days, common }: &CaArguments) -> Result<(), Failure> {
    let (from, until) = validity(*days)?;
    let pairs = [NODES, CLIENTS].map(|of| Pair::new(&common.dir, of.stem));
    let [nodes, clients] = [NODES, CLIENTS].map(|of| authority::make(of, (from, until)));
    files::write(&[(&pairs[0], nodes?), (&pairs[1], clients?)], common.force)?;
    let expires = date(until);
    let made = pairs.iter().map(|pair| Made {
        certificate: &pair.certificate,
        key: &pair.key,
        names: vec![],
        expires: expires.clone(),
    });
    common.output.print(&All { made: made.collect() }, || {
        let [nodes, clients] = pairs.each_ref();
        let dir = dir_option(&common.dir);
        format!(
            "made {nodes}, which sign nodes\nmade {clients}, which sign clients\nboth expire on {expires}\n\nKeep the \
             keys where no node runs. Next, for each node:\n  tsoracle cert node 1 --address HOST{dir}"
        )
    })
}

fn node(arguments: NodeArguments) -> Result<(), Failure> {
    let NodeArguments { id, address, cluster, validity, common } = arguments;
    let name = format!("node-{id}");
    let mut names = address;
    names.push(host(&format!("{name}.{cluster}")).map_err(|_| {
        Failure::usage(format!(
            "--cluster {cluster:?}: a certificate can have letters, digits, hyphens and dots in such a name"
        ))
    })?);
    names.push(uri(&format!("tsoracle:node/{id}"))?);
    let uses = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let pair = Pair::new(&common.dir, &name);
    let subject = Subject { name: &name, names, uses: uses.to_vec() };
    let (names, expires) = issue(NODES, subject, &pair, (validity.days, &common))?;
    let of_peers = Pair::new(&common.dir, NODES.stem).certificate;
    let of_clients = Pair::new(&common.dir, CLIENTS.stem).certificate;
    common.output.print(&pair.made(names.clone(), expires.clone()), || {
        let (cert, key) = (pair.certificate.display(), pair.key.display());
        let (of_peers, of_clients) = (of_peers.display(), of_clients.display());
        format!(
            "made {pair}: node {id}, {}\nit expires on {expires}\n\nServe with\n  --tls-cert {cert} --tls-key {key} \\\n  \
             --tls-client-ca {of_clients}\nand in the config string of openraft or omnipaxos\n  \
             peer_ca={of_peers}&peer_cert={cert}&peer_key={key}",
            names.join(", ")
        )
    })
}

fn client(name: &str, stem: &str, days: u32, common: &Common) -> Result<(), Failure> {
    let names = vec![uri(&format!("tsoracle:client/{name}"))?];
    let subject = Subject { name, names, uses: vec![ExtendedKeyUsagePurpose::ClientAuth] };
    let pair = Pair::new(&common.dir, stem);
    let (names, expires) = issue(CLIENTS, subject, &pair, (days, common))?;
    let trusted = Pair::new(&common.dir, NODES.stem).certificate;
    common.output.print(&pair.made(names, expires.clone()), || {
        let (cert, key) = (pair.certificate.display(), pair.key.display());
        format!(
            "made {pair}: client {name}\nit expires on {expires}\n\nAsk with\n  --tls-ca {} \\\n  --tls-cert {cert} --tls-key \
             {key}\nWhat {name} may do is for the servers' policy to say.",
            trusted.display()
        )
    })
}

/// Who is certified, and what for.
struct Subject<'a> {
    name: &'a str,
    names: Vec<SanType>,
    uses: Vec<ExtendedKeyUsagePurpose>,
}

/// Has an authority sign, and writes the files. Returns the names that the certificate carries, and when it expires.
fn issue(
    by: authority::Kind,
    subject: Subject<'_>,
    pair: &Pair,
    (days, common): (u32, &Common),
) -> Result<(Vec<String>, String), Failure> {
    let (from, until) = validity(days)?;
    let authority = Authority::load(&common.dir, by)?;
    let until = until.min(authority.until);
    let mut params = CertificateParams::default();
    params.distinguished_name = authority::named(subject.name);
    authority::set_validity(&mut params, (from, until))?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = subject.uses;
    params.use_authority_key_identifier_extension = true;
    let names = subject.names.iter().map(shown).collect();
    params.subject_alt_names = subject.names;
    let key = KeyPair::generate().map_err(authority::failed)?;
    let signed = authority.signs(&params, &key)?;
    files::write(&[(pair, (signed, key.serialize_pem()))], common.force)?;
    Ok((names, date(until)))
}

/// From when until when what is made now is valid, in seconds since 1970.
fn validity(days: u32) -> Result<(i64, i64), Failure> {
    let now = i64::try_from(SystemClock.now().wall_ms / 1_000).unwrap_or(i64::MAX);
    let until = now.saturating_add(i64::from(days) * SECONDS_PER_DAY);
    if now < EARLIEST || ASN1Time::from_timestamp(until).is_err() {
        return Err(Failure::failed(format!(
            "the clock of this machine shows {}, and certificates are valid by the clock; set it right first",
            date(now)
        )));
    }
    Ok((now - BEFORE, until))
}

impl Pair {
    fn made(&self, names: Vec<String>, expires: String) -> All<'_> {
        let Self { certificate, key } = self;
        All { made: vec![Made { certificate, key, names, expires }] }
    }
}

fn host(text: &str) -> Result<SanType, String> {
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(SanType::IpAddress(address));
    }
    let is_label = |label: &str| {
        let is_inner = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
        !label.is_empty() && label.len() <= 63 && label.chars().all(is_inner)
    };
    match text.len() <= 253 && text.split('.').all(is_label) {
        true => text.try_into().map(SanType::DnsName).map_err(|error| error.to_string()),
        false => {
            Err("a host is a name such as db1.example.com, or an IP address, without a port".into())
        }
    }
}

fn client_name(text: &str) -> Result<String, String> {
    let fits = |char: char| char.is_ascii_alphanumeric() || ".-_@".contains(char);
    match (1..=MAX_NAME_BYTES).contains(&text.len()) && text.chars().all(fits) {
        true => Ok(text.into()),
        false => Err(format!("a name has 1 to {MAX_NAME_BYTES} letters, digits, and . _ - @")),
    }
}

fn uri(text: &str) -> Result<SanType, Failure> {
    text.try_into().map(SanType::URI).map_err(authority::failed)
}

fn shown(name: &SanType) -> String {
    match name {
        SanType::DnsName(name) | SanType::URI(name) | SanType::Rfc822Name(name) => name.to_string(),
        SanType::IpAddress(address) => address.to_string(),
        other => format!("{other:?}"),
    }
}

/// What to add to the next command, if the directory is another one.
fn dir_option(dir: &Path) -> String {
    match dir == Path::new("tsoracle-certs") {
        true => String::new(),
        false => format!(" --dir {}", dir.display()),
    }
}
