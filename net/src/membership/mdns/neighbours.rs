//! The nodes announced by multicast on the local links: a table of bounded size.
//!
//! Anyone on a link can announce any number of nodes. The table keeps few. When it is full, the
//! sender with the most entries makes room, so that a flood displaces itself and honest neighbours
//! stay. Eviction loses nothing: every node found was reported, and is known elsewhere.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::message::{DnsMessage, DnsQuestion, DnsRecord, RecordData, kind};
use super::name::DnsName;
use super::service_instance::{
    ASK_AFTER, MAX_ADDRESSES, REPEAT, ServiceInstance, read_text, spell,
};
use crate::concurrency::backoff::Backoff;
use crate::fairness::{Refill, TokenBucket};
use crate::membership::crowd;
use crate::model::{Address, PeerId};

/// The maximum number of instances kept, from all senders. With names of 255 bytes and all
/// addresses, one takes about 2 KiB.
pub(super) const MAX_INSTANCES: usize = 128;

/// The maximum number of instances that take the addresses of one host. Each node has its own host
/// name, and many instances with the same would multiply the work for each of its addresses.
const MAX_INSTANCES_OF_HOST: usize = 4;

/// The maximum lifetime of an announcement, whatever its TTL: the usual TTL of such
/// records (RFC 6762, section 10).
const MAX_TTL: u32 = 4500;

/// The intervals at which an announced node is reported again while it is not in contact: there may
/// have been no room for it yet.
const REPEAT_UNMET: Backoff = Backoff {
    first: Duration::from_secs(3),
    cap: REPEAT,
};

/// The rate of reports: each one is checked against the table of members.
const REPORTS_PER_SECOND: u32 = 50;
const REPORTS_BURST: u32 = 100;

/// A link: an interface, by its index.
pub(super) type LinkIndex = u32;

/// Each sender speaks for itself alone: a host that announces another's instance creates its own
/// entry, and can neither change nor withdraw the other.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct InstanceKey {
    link: LinkIndex,
    sender: IpAddr,
    name: DnsName,
}

/// How many instances took the addresses of a host from one message, and those addresses.
type HostRecords<'a> = (usize, Vec<(&'a DnsRecord, IpAddr)>);

/// A node that was announced, and its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sighting {
    /// The announced node.
    pub(crate) id: PeerId,
    /// The addresses, and whether the announcement came from that very address. Those come first.
    pub(crate) addresses: Vec<(Address, bool)>,
    /// True if the same was reported before.
    pub(crate) is_repeated: bool,
}

/// The table of announced neighbours.
#[derive(Debug)]
pub(super) struct Neighbours {
    me: PeerId,
    service: DnsName,
    instances: HashMap<InstanceKey, ServiceInstance>,
    reports: TokenBucket,
}

impl Neighbours {
    /// Creates an empty table for the node `me` and the instances of `service`.
    pub(super) fn new(me: PeerId, service: DnsName, now: Instant) -> Self {
        Self {
            me,
            service,
            instances: HashMap::new(),
            reports: TokenBucket::new(
                Refill {
                    burst: REPORTS_BURST,
                    per_second: REPORTS_PER_SECOND,
                },
                now,
            ),
        }
    }

    /// Takes in the response `message` from `sender`, heard on `link`.
    pub(super) fn hear(
        &mut self,
        link: LinkIndex,
        sender: IpAddr,
        message: &DnsMessage,
        now: Instant,
    ) {
        // The order within a message means nothing: first take the instances, then
        // hosts, then addresses.
        for record in message.records() {
            if let RecordData::Pointer(instance) = &record.data
                && record.name == self.service
                && instance.is_child_of(&self.service)
            {
                self.announced(link, instance, record.ttl, sender, now);
            }
        }
        let mut hosts: HashMap<&DnsName, HostRecords<'_>> = HashMap::new();
        for record in message.records() {
            match &record.data {
                RecordData::Service { host, port } if record.ttl > 0 => {
                    self.change(link, sender, &record.name, |one| {
                        let target = Some((host.clone(), *port));
                        if one.target.as_ref().is_some_and(|(held, _)| held != host) {
                            one.addresses.clear();
                        }
                        one.target = target;
                    });
                }
                RecordData::Text(text) if record.ttl > 0 => {
                    self.change(link, sender, &record.name, |one| {
                        one.id = Some(read_text(text));
                    });
                }
                RecordData::Address(ip) => {
                    let (_, of_host) = hosts.entry(&record.name).or_default();
                    if of_host.len() < MAX_ADDRESSES {
                        of_host.push((record, *ip));
                    }
                }
                _ => {}
            }
        }
        if hosts.is_empty() {
            return;
        }
        for (key, instance) in &mut self.instances {
            if key.link != link || key.sender != sender {
                continue;
            }
            if instance.id == Some(None) {
                continue;
            }
            let host = instance.target.as_ref().map(|(host, _)| host);
            let Some((count, addresses)) = host.and_then(|host| hosts.get_mut(host)) else {
                continue;
            };
            if *count < MAX_INSTANCES_OF_HOST {
                *count += 1;
                for (record, ip) in addresses {
                    instance.add(record, *ip, *ip == sender, now);
                }
            }
        }
    }

    fn change(
        &mut self,
        link: LinkIndex,
        sender: IpAddr,
        name: &DnsName,
        change: impl FnOnce(&mut ServiceInstance),
    ) {
        if !name.is_child_of(&self.service) {
            return;
        }
        let key = InstanceKey {
            link,
            sender,
            name: name.clone(),
        };
        if let Some(instance) = self.instances.get_mut(&key) {
            change(instance);
            instance.is_changed = true;
        }
    }

    fn announced(&mut self, link: u32, name: &DnsName, ttl: u32, sender: IpAddr, now: Instant) {
        let key = InstanceKey {
            link,
            sender,
            name: name.clone(),
        };
        if ttl == 0 {
            self.instances.remove(&key);
            return;
        }
        if !self.instances.contains_key(&key) && self.instances.len() >= MAX_INSTANCES {
            self.make_room(now);
        }
        let instance = self
            .instances
            .entry(key)
            .or_insert_with(|| ServiceInstance {
                announced: now,
                expires: now,
                target: None,
                id: None,
                addresses: Vec::new(),
                reported: None,
                is_changed: true,
                repeat: None,
                asked: 0,
                ask_at: now + ASK_AFTER,
            });
        instance.announced = now;
        instance.is_changed = true;
        instance.expires = now + Duration::from_secs(ttl.min(MAX_TTL).into());
    }

    /// Drops expired instances, or else the oldest one of the sender with the most.
    fn make_room(&mut self, now: Instant) {
        self.expire(now);
        if self.instances.len() < MAX_INSTANCES {
            return;
        }
        let entries = self.instances.iter();
        let entries = entries.map(|(key, one)| (key, key.sender, one.announced));
        if let Some(key) = crowd::oldest_of_largest(entries).cloned() {
            self.instances.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant) {
        self.instances.retain(|_, instance| now < instance.expires);
    }

    /// Drops what was heard on links that are gone.
    pub(super) fn keep_links(&mut self, is_there: impl Fn(LinkIndex) -> bool) {
        self.instances.retain(|key, _| is_there(key.link));
    }

    /// Returns the nodes to report now. `zone` returns the name of a link.
    pub(super) fn sightings(
        &mut self,
        zone: impl Fn(LinkIndex) -> Option<String>,
        now: Instant,
    ) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        if !self.reports.wait(now).is_zero() {
            return sightings;
        }
        self.expire(now);
        let mut announced: HashMap<IpAddr, usize> = HashMap::new();
        for key in self.instances.keys() {
            *announced.entry(key.sender).or_default() += 1;
        }
        let is_due = |one: &ServiceInstance| one.is_changed || one.is_repeated(now);
        let changed = self.instances.iter_mut().filter(|(_, one)| is_due(one));
        let mut changed: Vec<_> = changed.collect();
        // The senders that announce the most wait the longest.
        changed.sort_by_key(|(key, _)| announced.get(&key.sender).copied());
        for (key, instance) in changed {
            let Some(located) = instance.located() else {
                instance.repeat = None;
                continue;
            };
            // An old report is due again only if the instance was announced again.
            let is_unreported = instance.is_changed && instance.is_unreported(&located, now);
            if located.id == self.me || !(is_unreported || instance.is_repeated(now)) {
                instance.is_changed = false;
                continue;
            }
            if self.reports.take(now).is_err() {
                break;
            }
            instance.is_changed = false;
            let zone = zone(key.link);
            let spell = |(ip, is_source): &(IpAddr, bool)| {
                let host = spell(*ip, zone.as_deref())?;
                Some((Address::new(host, located.port), *is_source))
            };
            let mut addresses: Vec<_> = located.addresses.iter().filter_map(spell).collect();
            addresses.sort_by_key(|(_, is_source)| !is_source);
            sightings.push(Sighting {
                id: located.id,
                addresses,
                is_repeated: !is_unreported,
            });
            let times = match instance.repeat {
                Some((_, times)) if !is_unreported => times.saturating_add(1),
                _ => 1,
            };
            instance.repeat = Some((now + REPEAT_UNMET.full(times), times));
            // A repetition does not postpone the report of an instance that comes back.
            if is_unreported {
                instance.reported = Some((located, now));
            }
        }
        sightings
    }

    /// Notes that the reported node `id` is in contact: it need not be reported again,
    /// nor answer queries.
    pub(super) fn met(&mut self, id: PeerId) {
        for instance in self.instances.values_mut() {
            if instance.id == Some(Some(id)) {
                instance.repeat = None;
            }
        }
    }

    /// Returns the instances on `link` that need not answer a query: those heard of in the first
    /// half of their life, as records with the remaining TTL. A node that is not in contact should
    /// answer: somebody else may have announced its name.
    pub(super) fn known(&self, link: LinkIndex, max: usize, now: Instant) -> Vec<DnsRecord> {
        let half = Duration::from_secs(u64::from(MAX_TTL) / 2);
        let mut names = HashSet::new();
        let instances = self.instances.iter().filter(|(key, _)| key.link == link);
        let known = instances.filter_map(|(InstanceKey { name, .. }, instance)| {
            let left = instance.expires.saturating_duration_since(now);
            let is_met = instance.reported.is_some() && instance.repeat.is_none();
            let is_met = is_met || instance.id == Some(Some(self.me));
            let is_whole = instance.located().is_some();
            (left > half && is_met && is_whole && names.insert(name)).then(|| DnsRecord {
                name: self.service.clone(),
                ttl: left.as_secs() as u32,
                is_unique: false,
                data: RecordData::Pointer(name.clone()),
            })
        });
        known.take(max).collect()
    }

    /// Returns at most `max` questions for the records that are still missing on `link`.
    pub(super) fn missing(
        &mut self,
        link: LinkIndex,
        max: usize,
        now: Instant,
    ) -> Vec<DnsQuestion> {
        let mut questions = Vec::new();
        for (InstanceKey { link: on, name, .. }, instance) in &mut self.instances {
            if questions.len() + 2 > max {
                break;
            }
            if *on != link || !instance.is_wanting() || now < instance.ask_at {
                continue;
            }
            let ask = |name: &DnsName| DnsQuestion {
                name: name.clone(),
                kind: kind::ANY,
            };
            instance.asked += 1;
            instance.ask_at = now + ASK_AFTER * 2 * u32::from(instance.asked);
            if instance.target.is_none() || instance.id.is_none() {
                questions.push(ask(name));
            }
            if let Some((host, _)) = &instance.target
                && instance.addresses.is_empty()
            {
                questions.push(ask(host));
            }
        }
        questions
    }

    /// Returns when [`Neighbours::missing`] may have something for `link`.
    pub(super) fn next_missing(&self, link: LinkIndex) -> Option<Instant> {
        let instances = self.instances.iter().filter(|(key, _)| key.link == link);
        let wanting = instances.filter(|(_, one)| one.is_wanting());
        wanting.map(|(_, one)| one.ask_at).min()
    }

    /// Returns when [`Neighbours::sightings`] may have something.
    pub(super) fn next_sighting(&self, now: Instant) -> Option<Instant> {
        // Only the limit on reports leaves any behind.
        let left = self
            .instances
            .values()
            .filter(|one| one.is_changed && one.located().is_some());
        let soon = now + Duration::from_millis(100);
        let left = left.map(|_| soon);
        let repeats = self.instances.values();
        let repeats = repeats.filter_map(|one| Some(one.repeat?.0));
        let repeats = repeats.map(|at| if at <= now { soon } else { at });
        left.chain(repeats).min()
    }

    /// Returns the number of instances kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }
}
