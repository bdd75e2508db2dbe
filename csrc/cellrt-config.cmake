# find_package(cellrt): the targets cellrt::cellrt (shared) and cellrt::cellrt_static.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/cellrt-targets.cmake")
