// Nothing of this header is named by c10d's headers; see ../README.md.
#pragma once
