//! Reads a file at an offset until the buffer is full.

use std::io;

/// Fills `buffer` from `offset` on by calling `read`, which works as pread(2) does. Returns how
/// many bytes there were: less than the buffer's length only at the end of the file.
pub(crate) fn read_full(
    offset: u64,
    buffer: &mut [u8],
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(offset + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a file of ten bytes three bytes at a time, each read interrupted once.
    fn read_slowly(from: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut is_interrupted = false;
        read_full(from, buffer, |at, part| {
            is_interrupted = !is_interrupted;
            if is_interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = part.len().min(3).min(10_usize.saturating_sub(at as usize));
            (at..)
                .zip(&mut part[..count])
                .for_each(|(at, byte)| *byte = at as u8);
            Ok(count)
        })
    }

    #[test]
    fn the_buffer_is_filled_as_far_as_the_file_goes() {
        let mut buffer = [0; 5];
        assert_eq!(read_slowly(1, &mut buffer).unwrap(), 5);
        assert_eq!(buffer, [1, 2, 3, 4, 5]);
        assert_eq!(read_slowly(6, &mut buffer).unwrap(), 4);
        assert_eq!(read_slowly(10, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn an_error_ends_the_read() {
        let refused = |_, _: &mut [u8]| Err(io::ErrorKind::PermissionDenied.into());
        assert!(read_full(0, &mut [0; 5], refused).is_err());
    }
}
