//! The roster of present and absent members under distinct names: the members of the table together
//! with those of another kind.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::SourceMember;
use super::{Member, MemberHealth, Members, MembersState, names};
use crate::model::PeerId;

impl Members {
    /// Returns the members of another kind, and a number that grows whenever one comes or goes.
    fn outside(&self) -> (Vec<SourceMember>, u64) {
        let source = self.source.get();
        // The number first: if the members are newer than it, they are merely read once more.
        let revision = source.map_or(0, |source| source.revision());
        let members = source.map(|source| source.members());
        (members.unwrap_or_default(), revision)
    }

    /// Returns everyone who can be called, including this node if it shares something. A member
    /// that is suspected to be gone is left out until it answers again.
    pub fn present(&self) -> Vec<Member> {
        let (outside, outside_revision) = self.outside();
        self.present_in(&mut self.state.lock(), &outside, outside_revision)
    }

    fn present_in(
        &self,
        state: &mut MembersState,
        outside: &[SourceMember],
        outside_revision: u64,
    ) -> Vec<Member> {
        let revision = state.table.revision() + outside_revision;
        if let Some((_, roster)) = state.roster.as_ref().filter(|(of, _)| *of == revision) {
            return roster.to_vec();
        }
        let roster = self.roster(state, outside);
        state.roster = Some((revision, roster.clone()));
        roster.to_vec()
    }

    /// Returns the present members, as [`Members::present`], and the absent ones, as
    /// [`Members::absent`], at one moment: every member is in one of the two.
    pub fn everyone(&self) -> (Vec<Member>, Vec<(PeerId, Arc<str>)>) {
        let (outside, outside_revision) = self.outside();
        let mut state = self.state.lock();
        let present = self.present_in(&mut state, &outside, outside_revision);
        (present, self.absent_in(&state, &outside))
    }

    /// Returns a number that changes with the present members, their names or addresses.
    pub fn revision(&self) -> u64 {
        let source = self.source.get();
        let outside = source.map_or(0, |source| source.revision());
        self.state.lock().table.revision() + outside
    }

    fn roster(&self, state: &MembersState, outside: &[SourceMember]) -> Arc<[Member]> {
        let names = self.shown_names(state, outside);
        let named = |id: PeerId| names.get(&id).cloned().unwrap_or_else(|| id.short().into());
        let itself = state.itself.as_ref().map(|peer| Member {
            id: self.me,
            name: named(self.me),
            peer: peer.clone(),
            address: None,
        });
        let others = state.table.present().filter_map(|(id, _, address)| {
            Some(Member {
                id,
                name: named(id),
                peer: state.connections.get(&id)?.clone(),
                address: address.cloned(),
            })
        });
        let outside = state.apart(outside).filter(|member| member.is_present);
        let outside = outside.map(|member| Member {
            id: member.id,
            name: named(member.id),
            peer: member.peer.clone(),
            address: Some(member.address.clone()),
        });
        let mut roster: Vec<Member> = itself.into_iter().chain(others).chain(outside).collect();
        roster.sort_by_key(|member| member.id);
        roster.into()
    }

    /// Returns members that were present and do not answer now, by display name: what they share is
    /// unknown, not gone.
    pub fn absent(&self) -> Vec<(PeerId, Arc<str>)> {
        let (outside, _) = self.outside();
        self.absent_in(&self.state.lock(), &outside)
    }

    fn absent_in(&self, state: &MembersState, outside: &[SourceMember]) -> Vec<(PeerId, Arc<str>)> {
        let names = self.shown_names(state, outside);
        let away = state.apart(outside).filter(|member| !member.is_present);
        let absent = state.table.absent().map(|(id, _)| id);
        let mut absent: Vec<_> = absent
            .chain(away.map(|member| member.id))
            .filter_map(|id| Some((id, names.get(&id)?.clone())))
            .collect();
        absent.sort();
        absent
    }

    /// Returns the health of all other members, present or absent, in no particular order.
    pub fn standings(&self) -> Vec<MemberHealth> {
        let (outside, _) = self.outside();
        let further = self.source.get().map(|source| source.standings());
        let state = self.state.lock();
        let names = self.shown_names(&state, &outside);
        let mut further = further.unwrap_or_default();
        further.retain(|standing| state.apart(&outside).any(|member| member.id == standing.id));
        let standings = state.table.standings().chain(further);
        let mut standings: Vec<_> = standings
            .map(|standing| MemberHealth {
                name: names.get(&standing.id).unwrap_or(&standing.name).clone(),
                ..standing
            })
            .collect();
        let present = standings.iter().filter(|standing| standing.is_present);
        let links: HashMap<PeerId, _> = present
            .filter_map(|one| Some((one.id, Arc::clone(state.connections.get(&one.id)?))))
            .collect();
        drop(state);
        for standing in &mut standings {
            standing.route = links.get(&standing.id).and_then(|link| link.route());
        }
        standings
    }

    /// Makes names unique among all members, present or absent, so that nobody's name changes when
    /// somebody else is away for a moment.
    fn shown_names(
        &self,
        state: &MembersState,
        outside: &[SourceMember],
    ) -> HashMap<PeerId, Arc<str>> {
        let itself = (state.itself.is_some() || state.port != 0).then_some((self.me, &*self.name));
        let others = state.table.present().map(|(id, name, _)| (id, name));
        let outside = state.apart(outside);
        let outside = outside.map(|member| (member.id, &*member.name));
        let others = others.chain(state.table.absent()).chain(outside);
        names::unique(itself.into_iter().chain(others))
    }
}

impl MembersState {
    /// Returns those of `outside`, except nodes of this program that are already members.
    fn apart<'a>(&'a self, outside: &'a [SourceMember]) -> impl Iterator<Item = &'a SourceMember> {
        outside.iter().filter(|member| {
            let node = member.node;
            node.is_none_or(|node| self.table.address(node).is_none())
        })
    }
}
