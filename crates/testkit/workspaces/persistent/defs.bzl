"""A rule whose tool can be a persistent worker."""

def _say_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    args = ctx.actions.args()
    args.add(ctx.file.src)
    args.add(out)
    args.use_param_file("@%s", use_always = True)
    args.set_param_file_format("multiline")
    ctx.actions.run(
        outputs = [out],
        inputs = [ctx.file.src],
        executable = ctx.executable.tool,
        arguments = [args],
        mnemonic = "Say",
        execution_requirements = {"supports-workers": "1", "requires-worker-protocol": "json"},
    )
    return [DefaultInfo(files = depset([out]))]

say = rule(
    implementation = _say_impl,
    attrs = {
        "src": attr.label(allow_single_file = True),
        "tool": attr.label(executable = True, cfg = "exec"),
    },
)
