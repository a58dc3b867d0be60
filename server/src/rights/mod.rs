//! Who may do what: identities, the rights that a policy gives them, and the record of what they do with them.

mod access;
mod audit;
mod certificate;
mod client;
mod granted;
mod policy;
mod right;
mod tokens;

pub use access::{Access, Rules, Trust};
pub use audit::Audit;
pub(crate) use client::{Client, Session};
pub use policy::{ANONYMOUS, IdentityConfig, IdentityLimits, Policy, PolicyConfig};
pub use right::Right;
pub use tokens::{TOKEN_CHARS, TokenRecord, Tokens, token_mistake};
