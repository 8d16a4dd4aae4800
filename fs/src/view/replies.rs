//! All answers to one question, sorted by what they say: who has it, who does not, and who does not
//! know. So silence is never taken for absence.

use std::sync::Arc;

use tinyp2p_net::error::Error as NetError;
use tinyp2p_net::protocol::wire::FaultCode;
use tinyp2p_net::query::fanout::PeerReply;

use crate::network::MemberRef;

/// All answers to one question.
pub(super) struct CollectedReplies<T> {
    /// Those who have it.
    pub(super) said: Vec<(Arc<MemberRef>, T)>,
    /// How many said that they do not.
    pub(super) denials: usize,
    /// Those who have it and may not read it themselves.
    pub(super) barred: Vec<Arc<str>>,
    /// The names of those who did not answer.
    pub(super) silent: Vec<Arc<str>>,
    /// Those of them that answered, and do not know.
    pub(super) failing: Vec<Arc<str>>,
}

impl<T> CollectedReplies<T> {
    /// Tells those who have it from those who do not and from those who did not say.
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

/// True if the member said that it has nothing there; any other error says nothing about that.
fn is_denial(error: &NetError) -> bool {
    match error {
        NetError::NotFound { .. } => true,
        NetError::Fault { fault, .. } => {
            matches!(fault.code, FaultCode::NotFound | FaultCode::NotADirectory)
        }
        _ => false,
    }
}

/// True if the member said that it has something there which it may not read itself.
fn is_barred(error: &NetError) -> bool {
    match error {
        NetError::Forbidden { .. } => true,
        NetError::Fault { fault, .. } => fault.code == FaultCode::Forbidden,
        _ => false,
    }
}
