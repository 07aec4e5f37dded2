"""A tool that can be a persistent worker, in both protocols, and misbehaves on demand.

Its arguments, in a flag file, are commands, a line each. Without `--persistent_worker` it does them and ends.
"""

import base64
import json
import os
import sys
import time

done = 0


def readable(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError as error:
        return type(error).__name__


# A tool may look at inputs that nobody marked when it starts.
early = readable("in/early")


def attack(path):
    """Tries to change a file in all ways; says which worked."""
    worked = []
    for name, change in [
        ("write", lambda: open(path, "w").write("evil")),
        ("chmod", lambda: os.chmod(path, 0o777)),
        ("rewrite", lambda: open(path, "w").write("evil")),
        ("rename", lambda: os.rename(path, path + ".moved")),
        ("remove", lambda: os.remove(path)),
    ]:
        try:
            change()
            worked.append(name)
        except OSError:
            pass
    return " ".join(worked)


def do(lines, request, persistent):
    """Does the commands; the exit code and what is said."""
    code, said = 0, ""
    for line in lines:
        command, *rest = line.split(" ")
        if command == "copy":
            with open(rest[1], "w") as out:
                out.write(readable(rest[0]))
        elif command == "write":
            with open(rest[0], "w") as out:
                out.write(" ".join(rest[1:]))
        elif command == "list":
            found = [os.path.join(at, name) for at, _, names in os.walk(rest[0]) for name in names]
            said += " ".join(sorted(os.path.relpath(path) for path in found)) + "\n"
        elif command == "who":
            said += f"{os.getpid() if persistent else 'alone'} {done} {sorted(set(os.environ) - {'LC_CTYPE'})}\n"
        elif command == "inputs":
            said += " ".join(f"{path}={digest}" for path, digest in request["inputs"]) + "\n"
        elif command == "early":
            said += f"{early}\n"
        elif command == "attack":
            said += f"attack: {attack(rest[0])}\n"
        elif command == "say":
            said += " ".join(rest) + "\n"
        elif command == "complain":
            print(" ".join(rest), file=sys.stderr, flush=True)
        elif command == "exit":
            code = int(rest[0])
        elif persistent:
            misbehave(command, rest)
        elif command == "grow":
            grow(int(rest[0]))
    return code, said


def misbehave(command, rest):
    if command == "die":
        os._exit(int(rest[0]))
    elif command == "kill":
        os.kill(os.getpid(), 9)
    elif command == "print":
        os.write(1, (" ".join(rest) + "\n").encode())
    elif command == "hang":
        time.sleep(1000)
    elif command == "grow":
        grow(int(rest[0]))
    elif command == "retool":
        try:
            os.remove("bin/data")
        except OSError as error:
            print("kept from it by", type(error).__name__, file=sys.stderr, flush=True)
    elif command == "fork":
        if os.fork() == 0:
            time.sleep(1000)
    elif command == "fill":
        with open(rest[0], "wb") as out:
            for _ in range(int(rest[1])):
                out.write(os.urandom(1 << 20))
        time.sleep(float(rest[2]))


def grow(mebibytes):
    held = bytearray()
    for _ in range(mebibytes):
        held += os.urandom(1 << 20)


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def read_varint(read):
    value = shift = 0
    while True:
        byte = read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value


def fields(body):
    place = 0

    def read(length):
        nonlocal place
        place += length
        return body[place - length : place]

    while place < len(body):
        tag = read_varint(read)
        value = read_varint(read)
        yield tag >> 3, read(value) if tag & 7 == 2 else value


def read_proto():
    length = read_varint(sys.stdin.buffer.read)
    if length is None:
        return None
    request = {"arguments": [], "inputs": []}
    for number, value in fields(sys.stdin.buffer.read(length)):
        if number == 1:
            request["arguments"].append(value.decode())
        elif number == 2:
            found = dict(fields(value))
            request["inputs"].append((found[1].decode(), found[2].decode()))
    return request


def answer_proto(code, said):
    said = said.encode()
    body = b"\x08" + varint(code) if code else b""
    body += b"\x12" + varint(len(said)) + said if said else b""
    os.write(1, varint(len(body)) + body)


def read_json():
    line = sys.stdin.readline()
    if not line:
        return None
    request = json.loads(line)
    inputs = request["inputs"]
    request["inputs"] = [(found["path"], base64.b64decode(found["digest"]).decode()) for found in inputs]
    return request


def answer_json(code, said):
    os.write(1, (json.dumps({"exitCode": code, "output": said, "requestId": 0}) + "\n").encode())


def main():
    global done
    if "--persistent_worker" not in sys.argv:
        flags = [argument for argument in sys.argv if argument.startswith("@")]
        with open(flags[0][1:]) as file:
            lines = file.read().splitlines()
        code, said = do(lines, None, False)
        sys.stderr.write(said)
        sys.exit(code)
    json_asked = "--json" in sys.argv
    read, answer = (read_json, answer_json) if json_asked else (read_proto, answer_proto)
    while True:
        request = read()
        if request is None:
            return
        done += 1
        code, said = do(request["arguments"], request, True)
        answer(code, said)
        if "last" in request["arguments"]:
            return


main()
