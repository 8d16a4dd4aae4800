//! Text that is not safe for a screen, for tests of everything that shows text.

/// One or more of each class of characters that drive a terminal, for tests of displayed text.
pub const HOSTILE: [char; 34] = [
    '\0',
    '\x1b',
    '\n',
    '\r',
    '\t',
    '\x7f',
    '\u{85}',
    '\u{9b}', // controls
    '\u{ad}',
    '\u{600}',
    '\u{feff}',
    '\u{fff9}', // formats
    '\u{200e}',
    '\u{200f}',
    '\u{61c}', // marks of direction
    '\u{202a}',
    '\u{202e}',
    '\u{2066}',
    '\u{2069}', // embeddings, overrides and isolates
    '\u{2028}',
    '\u{2029}', // separators
    '\u{200b}',
    '\u{200c}',
    '\u{200d}',
    '\u{2060}',
    '\u{180e}', // no width
    '\u{34f}',
    '\u{115f}',
    '\u{3164}', // fillers
    '\u{fe0f}',
    '\u{e0100}', // variation selectors
    '\u{e0001}',
    '\u{e007f}', // tags
    '\u{fffe}',
];
