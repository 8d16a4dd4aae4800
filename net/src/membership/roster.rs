//! Who is there and who is not, under names that tell them apart: the members of the table together
//! with those of another kind.

use std::collections::HashMap;
use std::sync::Arc;

use super::source::SourceMember;
use super::{Member, MemberHealth, Members, MembersState, names};
use crate::model::PeerId;

impl Members {
    /// The members of another kind, and a number that grows whenever one comes or goes.
    fn outside(&self) -> (Vec<SourceMember>, u64) {
        let source = self.source.get();
        // The number first: what is newer than it is only looked at once more.
        let revision = source.map_or(0, |source| source.revision());
        let members = source.map(|source| source.members());
        (members.unwrap_or_default(), revision)
    }

    /// Everyone who can be asked, this node included if it shares something. A member that is
    /// suspected to be gone is not among them until it answers again.
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

    /// Those who are there, as [`Members::present`] has them, and those who are not, as
    /// [`Members::absent`] does, at one moment: everybody is among either.
    pub fn everyone(&self) -> (Vec<Member>, Vec<(PeerId, Arc<str>)>) {
        let (outside, outside_revision) = self.outside();
        let mut state = self.state.lock();
        let present = self.present_in(&mut state, &outside, outside_revision);
        (present, self.absent_in(&state, &outside))
    }

    /// Another number whenever those who are there, their names or addresses have changed.
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

    /// Members that were there and do not answer now, by their shown names: what they share is
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

    /// How all others are doing that are there, or were and do not answer now; in no order.
    pub fn standings(&self) -> Vec<MemberHealth> {
        let (outside, _) = self.outside();
        let further = self.source.get().map(|source| source.standings());
        let state = self.state.lock();
        let names = self.shown_names(&state, &outside);
        let mut further = further.unwrap_or_default();
        further.retain(|standing| state.apart(&outside).any(|member| member.id == standing.id));
        let standings = state.table.standings().chain(further);
        let standings = standings.map(|standing| MemberHealth {
            name: names.get(&standing.id).unwrap_or(&standing.name).clone(),
            ..standing
        });
        standings.collect()
    }

    /// Names are made unique among all who are or were there, so that nobody's name changes when
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
    /// Those of `outside` that are no nodes of this program which are members already.
    fn apart<'a>(&'a self, outside: &'a [SourceMember]) -> impl Iterator<Item = &'a SourceMember> {
        outside.iter().filter(|member| {
            let node = member.node;
            node.is_none_or(|node| self.table.address(node).is_none())
        })
    }
}
