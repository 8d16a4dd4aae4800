//! Matching that can be stopped: it follows all paths through an expression at once, one byte of
//! the name at a time.
//!
//! The engines of the `regex` crate are much faster, but run to the end of the name. With the worst
//! expressions within the size limit, that takes them up to two seconds. This engine visits each
//! state at most once per byte, and counts the visits.

use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::primitives::StateID;

use super::patience::{SearchTime, TimeIsUp};

/// A matcher for one name after the other.
#[derive(Debug)]
pub(super) struct Stepwise {
    nfa: NFA,
    /// Whether each state was reached at this byte: the number of that byte, counted
    /// over all names.
    reached: Vec<u64>,
    round: u64,
    /// The states that process the next byte.
    current: Vec<StateID>,
    next: Vec<StateID>,
    /// States still to be visited, of those reached without another byte.
    pending: Vec<StateID>,
}

impl Stepwise {
    pub(super) fn new(nfa: NFA) -> Self {
        Self {
            reached: vec![0; nfa.states().len()],
            round: 0,
            current: Vec::new(),
            next: Vec::new(),
            pending: Vec::new(),
            nfa,
        }
    }

    /// Returns true if the expression matches anywhere in `name`.
    pub(super) fn matches(
        &mut self,
        name: &[u8],
        patience: &mut SearchTime,
    ) -> Result<bool, TimeIsUp> {
        self.current.clear();
        for at in 0..=name.len() {
            self.round += 1;
            self.next.clear();
            if let Some(before) = at.checked_sub(1) {
                let byte = name[before];
                patience.spend(self.current.len() as u32)?;
                for number in 0..self.current.len() {
                    if let Some(state) = self.step(self.current[number], byte) {
                        self.pending.push(state);
                    }
                }
            }
            // A match may begin anywhere.
            self.pending.push(self.nfa.start_anchored());
            if self.follow(name, at, patience)? {
                return Ok(true);
            }
            std::mem::swap(&mut self.current, &mut self.next);
        }
        Ok(false)
    }

    /// Returns the state that `byte` leads to from a state.
    fn step(&self, state: StateID, byte: u8) -> Option<StateID> {
        match self.nfa.state(state) {
            State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
            State::Sparse(transitions) => transitions.matches_byte(byte),
            State::Dense(transitions) => transitions.matches_byte(byte),
            _ => None,
        }
    }

    /// Follows everything that is pending, without another byte. Returns true if the
    /// expression has matched.
    fn follow(
        &mut self,
        name: &[u8],
        at: usize,
        patience: &mut SearchTime,
    ) -> Result<bool, TimeIsUp> {
        while let Some(id) = self.pending.pop() {
            if std::mem::replace(&mut self.reached[id.as_usize()], self.round) == self.round {
                continue;
            }
            let steps = match self.nfa.state(id) {
                State::Union { alternates } => alternates.len() as u32,
                _ => 1,
            };
            if let Err(time_is_up) = patience.spend(steps) {
                self.pending.clear();
                return Err(time_is_up);
            }
            match self.nfa.state(id) {
                State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) => self.next.push(id),
                State::Look { look, next } => {
                    if self.nfa.look_matcher().matches(*look, name, at) {
                        self.pending.push(*next);
                    }
                }
                State::Union { alternates } => self.pending.extend_from_slice(alternates),
                State::BinaryUnion { alt1, alt2 } => self.pending.extend([*alt1, *alt2]),
                State::Capture { next, .. } => self.pending.push(*next),
                State::Fail => {}
                State::Match { .. } => {
                    self.pending.clear();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
