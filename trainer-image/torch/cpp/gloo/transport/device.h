// Declarations that c10d's headers name; see ../README.md.
#pragma once

namespace gloo::transport {

class Device;

}  // namespace gloo::transport
