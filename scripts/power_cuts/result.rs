//! What a step of a run comes to. What a run finds is no error.

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
