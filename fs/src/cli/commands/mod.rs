//! One file per command: from its arguments to its output.

pub(crate) mod info;
pub(crate) mod invite;
pub(crate) mod mount;
pub(crate) mod peers;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod unmount;
