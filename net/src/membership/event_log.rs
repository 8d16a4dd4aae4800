//! The log messages for people about members that come and go, and addresses that fail.

use super::candidate::DialFailure;
use super::table::MembershipEvent;
use crate::error::Error;
use crate::model::Address;

/// Logs each of `events` at the level it deserves.
pub(super) fn report(events: Vec<MembershipEvent>) {
    for event in events {
        match event {
            MembershipEvent::Joined(id, name, address) => {
                tracing::info!("{name} ({id:?}) is here, at {address}");
            }
            MembershipEvent::Back(id, name, address) => {
                tracing::info!("{name} ({id:?}) is back, at {address}");
            }
            MembershipEvent::Rerouted(id, name, address) => {
                tracing::info!("{name} ({id:?}) is reached at {address} from now on");
            }
            MembershipEvent::Away(id, name, error) => {
                tracing::info!("{name} ({id:?}) is away: {error}");
            }
            MembershipEvent::Forgotten(id, name) => {
                tracing::debug!("{name} ({id:?}) was away for so long that it is forgotten");
            }
            MembershipEvent::Failed(address, error, setback) => {
                log_failure(&address, &error, &setback)
            }
        }
    }
}

fn log_failure(address: &Address, error: &Error, setback: &DialFailure) {
    match error {
        // The waiter for the first contact tells the user, who should not see it twice.
        _ if setback.awaited => tracing::info!("{error}"),
        Error::Refused { .. } => {
            let hours = setback.wait.as_secs().div_ceil(3600);
            let text = format!("{error}; ignored (next try in {hours} h)");
            // Two networks on one link are no reason to worry.
            if setback.named {
                tracing::warn!("{text}");
            } else {
                tracing::info!("{text}");
            }
        }
        Error::Later { .. } if setback.named => tracing::info!("{error}; waiting"),
        Error::NotANode { .. } | Error::OtherIdentity { .. } | Error::Misbehaved { .. }
            if setback.named =>
        {
            tracing::warn!("{error}; next try in {} s", setback.wait.as_secs());
        }
        _ if setback.named && setback.first => tracing::info!("{error}; trying again"),
        _ => tracing::debug!("{address}: {error}"),
    }
}
