#include "cli/verb.h"
#include "fbi/core/signals.h"
#include "fbi/core/system.h"

int main(int argc, char** argv) {
  fbi::install_stop_handlers();  // first: a signal while libraries start must not kill the process
  fbi::keep_freed_memory();
  return fbi::cli::run_program(argc, argv);
}
