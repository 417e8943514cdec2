#include "cli/verb.h"
#include "fbi/core/system.h"

int main(int argc, char** argv) {
  fbi::keep_freed_memory();
  return fbi::cli::run_program(argc, argv);
}
