//! Gives the shared library its name for the dynamic linker: programs ask for `libeverpost.so.1`, whatever the file is called.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libeverpost.so.1");
    }
}
