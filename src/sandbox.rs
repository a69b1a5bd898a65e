//! Private user and network namespaces.
