#include "fbi/core/version.h"

namespace fbi {

const char* version() {
  return FBI_VERSION;
}

}  // namespace fbi
