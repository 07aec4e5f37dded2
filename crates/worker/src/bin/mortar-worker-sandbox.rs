//! The sandbox's helper by itself, for the tests of this crate: they have no `main` of their own to call it in.

fn main() {
    mortar_sandbox::init_if_asked();
    eprintln!("mortar-worker-sandbox is started by tests, not by people");
    std::process::exit(2);
}
