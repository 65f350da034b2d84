//! Switches the sources to the simulated machine.

fn main() {
    println!("cargo:rustc-cfg=stratalog_simulation");
    println!("cargo:rerun-if-changed=build.rs");
}
