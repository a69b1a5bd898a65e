//! Namespaces of the calling thread and process.
