//! The next files in the directory of a fetched file, so that small files can be fetched together.

use std::sync::Arc;

use tinyp2p_net::download::{ReadingOrder, SmallFile, UpcomingFiles};
use tinyp2p_net::model::{PeerId, RelPath};

use super::plan::Job;
use crate::view::upcoming_files::{first_files, is_small};

/// All jobs in the order of [`plan::jobs`](super::plan::jobs): by directory, and by name
/// in each directory.
pub(super) struct UpcomingJobs(pub(super) Vec<Arc<Job>>);

impl UpcomingFiles for UpcomingJobs {
    /// Files are fetched in the order of their names.
    fn behind(
        &self,
        path: &RelPath,
        _: ReadingOrder,
        member: PeerId,
        max: usize,
    ) -> Vec<SmallFile> {
        let Some((directory, name)) = path.split() else {
            return Vec::new();
        };
        let by_place = |job: &Arc<Job>| (&job.directory, &job.name).cmp(&(&directory, &name));
        let at = self.0.binary_search_by(by_place);
        let first = at.map_or_else(|behind| behind, |at| at + 1);
        let behind = self.0[first..].iter();
        let behind = behind.take_while(|job| job.directory == directory);
        first_files(behind, max, |job| small(job, member))
    }

    fn order(&self, _: &RelPath, _: &RelPath) -> ReadingOrder {
        ReadingOrder::ByName
    }
}

/// Returns `job` as a small file that may come from `member`.
fn small(job: &Job, member: PeerId) -> Option<SmallFile> {
    let mut holders = job.holders.iter();
    let holder = holders.find(|holder| holder.member.id == member)?;
    is_small(job.size.or_zero()).then(|| SmallFile {
        path: holder.path.clone(),
        version: holder.version,
        size: job.size.or_zero(),
        root: job.root,
    })
}

#[cfg(test)]
mod tests {
    use tinyp2p_net::model::Version;

    use super::super::plan::Holder;
    use super::*;
    use crate::network::MemberRef;

    fn job(path: &str, size: u64, member: u8) -> Arc<Job> {
        let path = RelPath::new(path.as_bytes()).unwrap();
        let (directory, name) = path.split().unwrap();
        let member = Arc::new(MemberRef {
            id: PeerId::from_bytes([member; 32]),
            name: "m".into(),
        });
        Arc::new(Job {
            directory,
            name,
            size: size.into(),
            mtime: 1.into(),
            root: None,
            holders: vec![Holder {
                member,
                path,
                version: Version(1),
            }],
        })
    }

    #[test]
    fn what_comes_next_are_the_small_files_of_one_member_in_the_same_directory() {
        let jobs = [
            ("a", 1, 1),
            ("b/a", 1, 1),
            ("b/b", 0, 1),
            ("b/c", 1 << 30, 1),
            ("b/d", 1, 2),
            ("b/e", 1, 1),
            ("b/f", 1, 1),
            ("c/a", 1, 1),
        ];
        let jobs = jobs.map(|(path, size, member)| job(path, size, member));
        let upcoming = UpcomingJobs(jobs.to_vec());
        let behind = |path: &str, max| {
            let path = RelPath::new(path.as_bytes()).unwrap();
            let member = PeerId::from_bytes([1; 32]);
            let files = upcoming.behind(&path, ReadingOrder::ByName, member, max);
            let paths = files.into_iter().map(|file| file.path.to_string());
            paths.collect::<Vec<String>>()
        };
        assert_eq!(behind("b/a", 9), ["b/e", "b/f"]);
        assert_eq!(behind("b/a", 1), ["b/e"]);
        // The name of a file at a member where it differs from the name here.
        assert_eq!(behind("b/dd", 9), ["b/e", "b/f"]);
        assert_eq!(behind("c/a", 9), [""; 0]);
    }
}
