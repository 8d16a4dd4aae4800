//! The wire protocol: [`xmlrpc`] turns bytes into values and back and knows nothing of TinyP2P;
//! [`wire`] turns values into typed methods and back.

pub mod wire;
pub mod xmlrpc;
