//! `system.listMethods` and `system.methodHelp`: the usual introspection of XML-RPC.

use super::fields::{Refusal, array, text};
use super::{changes, hashes, hello, list, search, snapshot, stat};
use crate::protocol::xmlrpc::Value;

pub(super) const LIST_METHODS: &str = "system.listMethods";
pub(super) const METHOD_HELP: &str = "system.methodHelp";

/// Every method with its help text, sorted by name.
const METHODS: [(&str, &str); 9] = [
    (
        LIST_METHODS,
        "array system.listMethods()\nThe names of all methods.",
    ),
    (
        METHOD_HELP,
        "string system.methodHelp(string)\nWhat the named method does, takes and returns.",
    ),
    (changes::NAME, changes::HELP),
    (hashes::NAME, hashes::HELP),
    (hello::NAME, hello::HELP),
    (list::NAME, list::HELP),
    (search::NAME, search::HELP),
    (snapshot::NAME, snapshot::HELP),
    (stat::NAME, stat::HELP),
];

/// The most methods of a node; a longer list is refused.
const MAX_METHODS: usize = 256;

/// Returns the names of all methods of this program, sorted: the result of `system.listMethods`.
pub fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, _)| *name)
}

/// Returns the result of `system.methodHelp`; `None` when there is no such method.
pub fn help(method: &str) -> Option<&'static str> {
    let (_, help) = METHODS.iter().find(|(name, _)| *name == method)?;
    Some(help)
}

/// Checks that a call has no parameters.
pub(super) fn nothing(params: &[Value]) -> Result<(), Refusal> {
    if params.is_empty() {
        Ok(())
    } else {
        Err(Refusal::invalid("no parameters are expected"))
    }
}

/// Reads the name that `system.methodHelp` asks about.
pub(super) fn one_name(params: Vec<Value>) -> Result<String, Refusal> {
    let [name]: [Value; 1] = params
        .try_into()
        .map_err(|_| Refusal::invalid("exactly one parameter, a string, is expected"))?;
    text(name, "method")
}

/// Encodes the result of `system.listMethods`.
pub(super) fn names_to_value(names: &[String]) -> Value {
    Value::Array(names.iter().map(|name| Value::from(&**name)).collect())
}

/// Reads the result of `system.listMethods` from a peer.
pub(super) fn names_from_value(value: Value) -> Result<Vec<String>, Refusal> {
    array(value, "methods", MAX_METHODS)?
        .into_iter()
        .map(|name| text(name, "method"))
        .collect()
}
