#pragma once

namespace fbi {

/// Version of this program, e.g. "0.1.0"; CMakeLists.txt holds it.
const char* version();

}  // namespace fbi
