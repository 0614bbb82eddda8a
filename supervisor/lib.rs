//! Virtroupe.
