"""The F32 tensors of a GGUF file, read without any program of ours."""
import math
import struct

import torch

STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
F32 = 0
ALIGNMENT = 32


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, kind):
        value, = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self):
        size = self.number("Q")
        self.at += size
        return self.data[self.at - size:self.at].decode()

    def skip_value(self, kind):
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            for _ in range(count):
                self.skip_value(inner)
        else:
            self.at += SIZES[kind]


def read_f32(path):
    """{name: tensor}; other types are refused."""
    reader = Reader(path.read_bytes())
    assert reader.number("I") == struct.unpack("<I", b"GGUF")[0] and reader.number("I") == 3
    tensors, keys = reader.number("Q"), reader.number("Q")
    for _ in range(keys):
        reader.text()
        reader.skip_value(reader.number("I"))
    infos = []
    for _ in range(tensors):
        name = reader.text()
        shape = [reader.number("Q") for _ in range(reader.number("I"))][::-1]
        assert reader.number("I") == F32, name
        infos.append((name, shape, reader.number("Q")))
    begin = -(-reader.at // ALIGNMENT) * ALIGNMENT
    return {name: torch.frombuffer(bytearray(reader.data[begin + offset:begin + offset + 4 * math.prod(shape)]), dtype=torch.float32).view(shape)
            for name, shape, offset in infos}
