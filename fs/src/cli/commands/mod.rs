//! One file for each command: from its arguments to what it prints.

pub(crate) mod info;
pub(crate) mod mount;
pub(crate) mod peers;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod unmount;
