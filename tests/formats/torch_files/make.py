"""Writes the files beside this one with torch.save: samples for torch_file_test.cpp and the corpus of the fuzz targets."""
import pathlib

import torch

HERE = pathlib.Path(__file__).parent


class Malice:
    def __reduce__(self):
        import os

        return os.system, ("true",)


def main():
    torch.manual_seed(1)
    numbers = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2))  # its state dict is an OrderedDict with attributes
    with torch.no_grad():
        module[0].weight.copy_(numbers)
        module[0].bias.copy_(torch.tensor([-1.0, 0.5]))
    torch.save(module.state_dict(), HERE / "module.bin")
    torch.save({
        "f64": numbers.double(), "f16": numbers.half(), "bf16": numbers.bfloat16(), "i64": numbers.long(), "i32": numbers.int(),
        "i16": numbers.short(), "i8": numbers.char(), "u8": numbers.byte(), "bool": numbers > 2,
        "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "parameter": torch.nn.Parameter(numbers),
        "rows": numbers[1:], "flat_part": numbers.flatten()[2:5], "tied": numbers, "also_tied": numbers,
    }, HERE / "kinds.bin")
    torch.save({"a": numbers}, HERE / "protocol4.bin", pickle_protocol=4)
    with_attributes, parameter = numbers.clone(), torch.nn.Parameter(numbers)
    with_attributes.note = parameter.note = {"initialized": True}
    torch.save({"a": with_attributes, "b": parameter}, HERE / "attributes.bin")
    torch.save({"a": numbers.t()}, HERE / "transposed.bin")
    torch.save({"a": numbers, "step": 7}, HERE / "number.bin")
    torch.save({"model": {"a": numbers}}, HERE / "nested.bin")
    torch.save({"a": Malice()}, HERE / "malice.bin")
    torch.save({"a": numbers}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
