//! The native protocol of journald, with every value preceded by its length, so that no value can forge a field.

/// Longest value. A record has some twenty fields, so an entry stays below the 200 KiB that a socket takes at once.
pub(crate) const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Longest value of an entry that was too large for the socket.
pub(crate) const VALUE_BYTES_SHORT: usize = 128;

/// Writes the fields as one datagram: for each its name, a newline, the length of the value as 8 bytes, little endian,
/// the value, a newline. Values are cut to `value_bytes_max` at a character.
pub(crate) fn encode(fields: &[(&'static str, String)], value_bytes_max: usize) -> Vec<u8> {
    let mut datagram = Vec::new();
    for (name, value) in fields {
        let value = &value[..value.floor_char_boundary(value_bytes_max)];
        datagram.extend_from_slice(name.as_bytes());
        datagram.push(b'\n');
        datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
        datagram.extend_from_slice(value.as_bytes());
        datagram.push(b'\n');
    }
    datagram
}
