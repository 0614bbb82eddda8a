//! TCP through the whole stack: listeners, streams and messages, on one cpu and on several.

mod bulk;
mod support;
