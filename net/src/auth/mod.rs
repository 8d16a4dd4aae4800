//! Decides which peers may speak at all.
//!
//! A network is everyone who knows its password. Two nodes meet in three steps, each in its own
//! file. TLS 1.3 shows each side the other's Ed25519 key ([`tls`], [`Identity`]). Over that very
//! connection, OPAQUE proves that both know the password, and teaches neither an eavesdropper nor
//! an impostor anything to guess it with offline ([`pair`], [`Credentials`]). Then the proven key
//! is admitted, in memory, for a day ([`Admission`]). An attacker can only guess online, one
//! password per run and in either role, which [`limits`] makes slow.
//!
//! [`Gate`] holds all of it for one process. The IO of a pairing run is in `server::pairing` and
//! `client::pairing`; everything here but the files of [`Identity`] and [`GuessRecord`] is pure and
//! takes the time as `now`.
//!
//! Nothing that depends on the password is ever written to disk: it would let a thief of the
//! disk guess offline.

mod admission;
mod credentials;
pub(crate) mod gate;
mod identity;
pub mod limits;
pub mod pair;
mod password;
mod spki;
pub mod tls;

pub use admission::Admission;
pub use credentials::Credentials;
pub use gate::Gate;
pub use identity::Identity;
pub use limits::{AddressSource, GuessRecord};
pub use password::{InvalidPassword, Password, Stretched};
pub use tls::Alpn;
