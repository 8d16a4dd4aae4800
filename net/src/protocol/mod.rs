//! What goes over the wire: [`xmlrpc`] turns bytes into values and back and has never heard of
//! TinyP2P; [`wire`] turns values into typed methods and back.

pub mod wire;
pub mod xmlrpc;
