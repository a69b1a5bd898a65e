//! Sets the soname. Its number changes with every change of the header that breaks a program.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libviproute.so.0");
}
