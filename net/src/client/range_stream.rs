//! The body of one ranged GET as a [`ByteStream`].
//!
//! The connection returns to its pool with the last byte; a stream that is dropped
//! earlier closes it.

use std::sync::Arc;
use std::time::Instant;

use super::connection_pool::ConnectionPool;
use super::head::stays_open;
use super::range_get::Head;
use crate::client::connector::HttpConnection;
use crate::error::Error;
use crate::peer::ByteStream;

/// The bytes of one response.
pub(super) struct FileStream {
    /// The connection; `None` once all bytes were read, or it broke.
    connection: Option<HttpConnection>,
    remaining: u64,
    /// True if the connection can carry another request afterwards.
    stays_open: bool,
    pool: Arc<ConnectionPool>,
    who: String,
}

impl FileStream {
    pub(super) fn new(
        connection: HttpConnection,
        head: &Head,
        length: u64,
        pool: Arc<ConnectionPool>,
    ) -> Self {
        Self {
            who: connection.who().into(),
            connection: Some(connection),
            remaining: length,
            stays_open: stays_open(head),
            pool,
        }
    }

    fn cut(&self) -> Error {
        Error::unreachable(&self.who, "the connection was cut in the middle of a file")
    }
}

impl ByteStream for FileStream {
    fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> Result<usize, Error> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let Some(connection) = &self.connection else {
            return Err(self.cut());
        };
        let max = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let max = max.min(buffer.len());
        let read = connection.wire().read(&mut buffer[..max], deadline);
        match read {
            Ok(read) => {
                self.remaining -= read as u64;
                if self.remaining == 0
                    && let Some(connection) = self.connection.take()
                    && self.stays_open
                    && connection.wire().is_drained()
                {
                    self.pool.put(connection, Instant::now());
                }
                Ok(read)
            }
            // A caller may do something else and come back.
            Err(error @ Error::Timeout { .. }) => Err(error),
            Err(Error::Unreachable { .. }) => {
                self.connection = None;
                Err(self.cut())
            }
            Err(error) => {
                self.connection = None;
                Err(error)
            }
        }
    }
}
