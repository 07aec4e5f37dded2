"""A repository rule whose command runs remotely under `--experimental_repo_remote_exec`."""

def _impl(ctx):
    result = ctx.execute(["/bin/sh", "-c", ctx.attr.command], environment = {"GREETING": "hello"})
    if result.return_code != 0:
        fail("the command failed: " + result.stderr)
    ctx.file("stdout.txt", result.stdout)
    ctx.file("stderr.txt", result.stderr)
    ctx.file("BUILD", "exports_files([\"stdout.txt\", \"stderr.txt\"])\n")

command_output = repository_rule(
    implementation = _impl,
    attrs = {
        # Tells where it ran, and when.
        "command": attr.string(default = "echo $GREETING; pwd; date +%s%N; echo aside >&2"),
    },
    remotable = True,
)
