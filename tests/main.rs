//! System tests: the real programs, as processes, over real sockets, with real mounts.
//!
//! One binary, so that the parts are compiled and linked once. Each file is a topic; the
//! harness is in `harness`. A machine that lacks something fails the tests that need it:
//! nothing is ever skipped.

// Logs of nodes and measurements belong in the output of a test.
#![allow(clippy::print_stderr, clippy::print_stdout)]

mod harness;

mod attributes;
mod changes;
mod discovery;
mod failure;
mod first_minutes;
mod floods;
mod get;
mod get_holders;
mod hidden;
mod legacy;
mod legacy_client;
mod legacy_mixed;
mod liars;
mod listing;
mod many;
mod moves;
mod nat_lab;
mod output;
mod owner;
mod owner_model;
mod password;
mod places;
mod probes;
mod reach;
mod refetch;
mod share_hangs;
mod share_moves;
mod small;
mod speed;
mod start_stop;
mod status;
mod strangers;
mod tools;
mod verified;
mod walks;
