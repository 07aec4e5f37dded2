from python import lib

assert lib.double(21) == 42
