//! Takes XML-RPC parameters and results apart, member by member, with every check.
//!
//! A method takes one struct and returns one struct. Unknown members are ignored, so that later
//! versions can add some; a missing required member is a [`Refusal`].

use std::collections::BTreeMap;

use super::Hello;
use crate::model::fault::{Fault, FaultCode};
use crate::model::{Invalid, RelPath};
use crate::protocol::xmlrpc::Value;

/// Why parameters or a result do not match the method's description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// A member is missing, of the wrong type, or has an impossible value.
    Invalid(String),
    /// A documented bound is exceeded; the text names it.
    TooMuch(String),
    /// The sender is older than any program that this one can talk to.
    UnsupportedVersion,
}

impl Refusal {
    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid(what.into())
    }

    /// Creates "at most `max` `what`".
    pub(super) fn too_much(max: usize, what: &str) -> Self {
        Self::TooMuch(format!("at most {max} {what}"))
    }

    /// Returns the sentence to send to the caller.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Invalid(text) | Self::TooMuch(text) => text,
            Self::UnsupportedVersion => {
                format!("protocol version {} or later is needed", Hello::PROTOCOL)
            }
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Invalid(_) => FaultCode::InvalidParameters,
            Refusal::TooMuch(_) => FaultCode::LimitExceeded,
            Refusal::UnsupportedVersion => FaultCode::UnsupportedVersion,
        };
        Self::new(code, refusal.into_text())
    }
}

/// The members of a struct, to be taken one by one.
pub(super) struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub(super) fn of(value: Value) -> Result<Self, Refusal> {
        match value {
            Value::Struct(members) => Ok(Self(members)),
            _ => Err(Refusal::invalid("a struct is expected")),
        }
    }

    /// Reads the members of a call's one parameter.
    pub(super) fn of_params(params: Vec<Value>) -> Result<Self, Refusal> {
        let [only]: [Value; 1] = params
            .try_into()
            .map_err(|_| Refusal::invalid("exactly one parameter, a struct, is expected"))?;
        Self::of(only)
    }

    pub(super) fn optional(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    pub(super) fn required(&mut self, name: &str) -> Result<Value, Refusal> {
        self.optional(name)
            .ok_or_else(|| Refusal::Invalid(format!("'{name}' is missing")))
    }

    /// Takes an integer that fits `T`.
    pub(super) fn integer<T: TryFrom<i64>>(&mut self, name: &str) -> Result<T, Refusal> {
        match self.required(name)? {
            Value::Int(n) => T::try_from(n)
                .map_err(|_| Refusal::Invalid(format!("'{name}' is out of its range"))),
            _ => Err(Refusal::Invalid(format!("'{name}' must be an integer"))),
        }
    }

    /// Takes a boolean; false when it is missing.
    pub(super) fn optional_flag(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.optional(name) {
            None => Ok(false),
            Some(Value::Boolean(value)) => Ok(value),
            Some(_) => Err(Refusal::Invalid(format!("'{name}' must be a boolean"))),
        }
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<bool, Refusal> {
        match self.required(name)? {
            Value::Boolean(value) => Ok(value),
            _ => Err(Refusal::Invalid(format!("'{name}' must be a boolean"))),
        }
    }

    /// Takes the bytes of a string or of base64.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Refusal> {
        bytes(self.required(name)?, name)
    }

    /// Takes text, as a string or as base64 of its UTF-8.
    pub(super) fn text(&mut self, name: &str) -> Result<String, Refusal> {
        text(self.required(name)?, name)
    }

    pub(super) fn optional_bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, Refusal> {
        self.optional(name)
            .map(|value| bytes(value, name))
            .transpose()
    }

    pub(super) fn path(&mut self, name: &str) -> Result<RelPath, Refusal> {
        Ok(RelPath::new(&self.bytes(name)?)?)
    }

    /// Takes an array of at most `max` values.
    pub(super) fn array(&mut self, name: &str, max: usize) -> Result<Vec<Value>, Refusal> {
        array(self.required(name)?, name, max)
    }

    /// Takes the `limit` of a request for one page: at least 1.
    pub(super) fn limit(&mut self) -> Result<u32, Refusal> {
        match self.integer("limit")? {
            0 => Err(Refusal::invalid("'limit' must be at least 1")),
            limit => Ok(limit),
        }
    }
}

pub(super) fn bytes(value: Value, name: &str) -> Result<Vec<u8>, Refusal> {
    value
        .into_bytes()
        .ok_or_else(|| Refusal::Invalid(format!("'{name}' must be a string or base64")))
}

pub(super) fn text(value: Value, name: &str) -> Result<String, Refusal> {
    String::from_utf8(bytes(value, name)?)
        .map_err(|_| Refusal::Invalid(format!("'{name}' must be UTF-8")))
}

pub(super) fn array(value: Value, name: &str, max: usize) -> Result<Vec<Value>, Refusal> {
    match value {
        Value::Array(values) if values.len() <= max => Ok(values),
        Value::Array(_) => Err(Refusal::too_much(max, name)),
        _ => Err(Refusal::Invalid(format!("'{name}' must be an array"))),
    }
}

/// Creates a struct value from its members.
pub(super) fn structure<const N: usize>(all: [(&str, Value); N]) -> Value {
    members(all.into_iter())
}

/// Creates a struct value whose members may vary.
pub(super) fn members<'a>(all: impl Iterator<Item = (&'a str, Value)>) -> Value {
    Value::Struct(all.map(|(name, value)| (name.to_owned(), value)).collect())
}
