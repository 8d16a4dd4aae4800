//! Who may speak at all.
//!
//! A network is everyone who knows its password. Two nodes meet in three steps, each in a file of
//! its own: TLS 1.3 shows each the other's Ed25519 key ([`tls`], [`Identity`]); OPAQUE proves over
//! that very connection that both know the password, while teaching neither a listener nor an
//! impostor anything to guess it with offline ([`pair`], [`Credentials`]); and the proven key is
//! admitted, in memory, for a day ([`Admission`]). What is left to an attacker is guessing online,
//! one password per run and in either role, which [`limits`] makes slow.
//!
//! [`Gate`] holds all of it for one process. The IO of a pairing run is in `server::pairing` and
//! `client::pairing`; everything here but the files of [`Identity`] and [`GuessRecord`] is pure and
//! takes the time as `now`.
//!
//! Nothing that depends on the password is ever written to disk: whatever is there would let a
//! thief of the disk guess offline.

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
