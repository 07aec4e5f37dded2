//! The helper by itself, for tests and for programmes that cannot call `init_if_asked` in their own `main`.

fn main() {
    mortar_sandbox::init_if_asked();
    eprintln!("mortar-sandbox-init is started by mortar, not by people");
    std::process::exit(2);
}
