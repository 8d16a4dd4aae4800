//! All answers to one question, sorted by what they say: who has it, who does not, and who does not
//! know. So silence never counts as absence.

use std::sync::Arc;

use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::protocol::wire::FaultCode;
use tinyp2p_net::query::fanout::PeerReply;

use crate::network::MemberRef;

/// All answers to one question.
pub(super) struct CollectedReplies<T> {
    /// The members that have it, with their answers.
    pub(super) said: Vec<(Arc<MemberRef>, T)>,
    /// How many members said that they do not have it.
    pub(super) denials: usize,
    /// The members that have it but may not read it themselves.
    pub(super) barred: Vec<Arc<str>>,
    /// The names of the members that did not answer.
    pub(super) silent: Vec<Arc<str>>,
    /// The silent members that answered that they do not know.
    pub(super) failing: Vec<Arc<str>>,
}

impl<T> CollectedReplies<T> {
    /// Separates the members that have it from those that do not and those that did not say.
    pub(super) fn sort(answers: Vec<PeerReply<Option<T>>>) -> Self {
        let mut sorted = Self {
            said: Vec::with_capacity(answers.len()),
            denials: 0,
            barred: Vec::new(),
            silent: Vec::new(),
            failing: Vec::new(),
        };
        for PeerReply {
            member: id,
            name,
            result,
        } in answers
        {
            match result {
                Ok(Some(answer)) => sorted.said.push((Arc::new(MemberRef { id, name }), answer)),
                Ok(None) => sorted.denials += 1,
                Err(error) if is_denial(&error) => sorted.denials += 1,
                Err(error) if is_barred(&error) => sorted.barred.push(name),
                Err(error) => {
                    tracing::debug!(member = %name, %error, "no answer");
                    if matches!(error, NetError::Fault { .. }) {
                        sorted.failing.push(Arc::clone(&name));
                    }
                    sorted.silent.push(name);
                }
            }
        }
        sorted
    }
}

/// Returns true if the member said that it has nothing there; any other error says
/// nothing about that.
fn is_denial(error: &NetError) -> bool {
    match error {
        NetError::NotFound { .. } => true,
        NetError::Fault { fault, .. } => fault.is_absence(),
        _ => false,
    }
}

/// Returns true if the member said that it has something there that it may not read itself.
fn is_barred(error: &NetError) -> bool {
    match error {
        NetError::Forbidden { .. } => true,
        NetError::Fault { fault, .. } => fault.code == FaultCode::Forbidden,
        _ => false,
    }
}
