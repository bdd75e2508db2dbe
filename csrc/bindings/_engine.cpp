// pybind11 over the C++ objects that live across calls (the C interface's functions are bound in _kernels.pyx).
//
// Arrays come in checked and are copied; results go out without a copy. The GIL is released while C++ works, also while
// it waits for another thread's turn on the same object.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cellrt.h"
#include "flow_masks_3d.hpp"
#include "star_nms_2d.hpp"
#include "status.hpp"

namespace py = pybind11;
using cellrt::MaskSeeds3D;
using cellrt::StarNms2D;

namespace {

// Raise the error of cellrt.errors that belongs to a status.
[[noreturn]] void raise(std::int32_t status, const std::string& message) {
    const char* const name = status == CELLRT_ERROR_CAPACITY ? "CapacityError"
                             : status == CELLRT_ERROR_DATA   ? "DataError"
                                                             : "KernelError";
    const py::object type = py::module_::import("cellrt.errors").attr(name);
    PyErr_SetObject(type.ptr(), type(message, status).ptr());
    throw py::error_already_set();
}

// Run `work` without the GIL and give what it gives; its Failure raises an error with the message that `explain` gives.
template <typename Work, typename Explain>
auto without_gil(const Work& work, const Explain& explain) {
    try {
        const py::gil_scoped_release released;
        return work();
    } catch (const cellrt::Failure& failure) {
        raise(failure.status(), explain(failure.status()));
    }
}

std::string shape_text(const std::vector<py::ssize_t>& shape) {
    std::string text = "(";
    for (const py::ssize_t side : shape) text += std::to_string(side) + ", ";
    return text.substr(0, text.size() - (shape.size() > 1 ? 2 : 1)) + ")";
}

// The elements of a contiguous array of the dtype and shape; anything else raises.
template <typename Number>
const Number* elements(const char* name, const py::object& object, const std::vector<py::ssize_t>& shape) {
    const std::string expected = "expected " + std::string(name);
    const std::string dtype = py::str(static_cast<py::object>(py::dtype::of<Number>()));
    if (!py::isinstance<py::array_t<Number>>(object)) {
        const py::object got = py::getattr(object, "dtype", py::type::of(object).attr("__name__"));
        raise(CELLRT_ERROR_ARGUMENT, expected + " as a " + dtype + " array, got " + std::string(py::str(got)) +
                                         ": use numpy.asarray(" + name + ", ...)");
    }
    const auto array = py::reinterpret_borrow<py::array>(object);
    const std::vector<py::ssize_t> got(array.shape(), array.shape() + array.ndim());
    if (got != shape)
        raise(CELLRT_ERROR_ARGUMENT, expected + " of shape " + shape_text(shape) + ", got " + shape_text(got));
    if (!(array.flags() & py::array::c_style))
        raise(CELLRT_ERROR_ARGUMENT, expected + " contiguous: use numpy.ascontiguousarray(" + name + ")");
    return static_cast<const Number*>(array.data());
}

// A numpy array that owns the vector's memory.
template <typename Number>
py::array hand_over(std::vector<Number>&& values, const std::vector<py::ssize_t>& shape) {
    auto owned = std::make_unique<std::vector<Number>>(std::move(values));
    const Number* const data = owned->data();
    const py::capsule owner(owned.get(), [](void* vector) { delete static_cast<std::vector<Number>*>(vector); });
    owned.release();
    return py::array_t<Number>(shape, data, owner);
}

std::unique_ptr<StarNms2D> create(std::int32_t n_rays, std::int32_t n_class_channels, std::int64_t max_candidates) {
    return without_gil(
        [&] { return std::make_unique<StarNms2D>(n_rays, n_class_channels, max_candidates); },
        [&](std::int32_t) {
            return "expected n_rays in 3..1024, n_class_channels in 0..65536 and max_candidates in 0..2^32 - 1, got " +
                   std::to_string(n_rays) + ", " + std::to_string(n_class_channels) + " and " +
                   std::to_string(max_candidates);
        });
}

void add(StarNms2D& self, const py::object& prob, const py::object& dist, const py::object& points,
         const py::object& class_prob) {
    const auto n = static_cast<py::ssize_t>(py::isinstance<py::sequence>(prob) || py::isinstance<py::array>(prob)
                                                ? py::len(prob) : 0);
    const auto* const prob_data = elements<float>("prob", prob, {n});
    const auto* const dist_data = elements<float>("dist", dist, {n, self.n_rays()});
    const auto* const points_data = elements<std::int32_t>("points", points, {n, 2});
    const float* class_data = nullptr;
    if (!class_prob.is_none() || self.n_class_channels() > 0)
        class_data = elements<float>("class_prob", class_prob, {n, self.n_class_channels()});
    without_gil(
        [&] { self.add(prob_data, dist_data, points_data, class_data, n); },
        [&](std::int32_t status) -> std::string {
            if (status == CELLRT_ERROR_CAPACITY)
                return "expected at most " + std::to_string(self.max_candidates()) + " candidates, got " +
                       std::to_string(n) + " more: raise prob_thresh or max_candidates";
            return "expected prob without NaN, 0 < dist <= 2^20 and points within 2^30, got others";
        });
}

void check_threads(std::int32_t n_threads) {
    if (n_threads < 0)
        raise(CELLRT_ERROR_ARGUMENT, "expected n_threads of at least 0, got " + std::to_string(n_threads));
}

py::tuple suppressed(const StarNms2D& self, float nms_thresh, std::int64_t max_pairs, const py::object& cancel,
                     std::int32_t n_threads) {
    check_threads(n_threads);
    const auto* const flag = elements<std::int32_t>("cancel", cancel, {1});
    StarNms2D::Survivors found = without_gil(
        [&] { return self.survivors(nms_thresh, max_pairs, flag, n_threads); },
        [&](std::int32_t status) -> std::string {
            if (status == CELLRT_ERROR_CANCELLED) return cellrt_status_text(status);
            if (status == CELLRT_ERROR_CAPACITY)
                return "expected at most " + std::to_string(max_pairs) +
                       " pairs of overlapping candidates to compare, got more: raise prob_thresh or max_pairs";
            return "expected nms_thresh between 0 and 1 and max_pairs of at least 0, got " +
                   std::to_string(nms_thresh) + " and " + std::to_string(max_pairs);
        });
    const auto n = static_cast<py::ssize_t>(found.prob.size());
    py::object class_prob = py::none();
    if (self.n_class_channels() > 0) class_prob = hand_over(std::move(found.class_prob), {n, self.n_class_channels()});
    return py::make_tuple(hand_over(std::move(found.prob), {n}), hand_over(std::move(found.dist), {n, self.n_rays()}),
                          hand_over(std::move(found.points), {n, 2}), class_prob);
}

using Triple = std::array<std::int64_t, 3>;

std::string triple_text(const Triple& values) {
    return shape_text({static_cast<py::ssize_t>(values[0]), static_cast<py::ssize_t>(values[1]),
                       static_cast<py::ssize_t>(values[2])});
}

std::unique_ptr<MaskSeeds3D> create_seeds(const Triple& shape) {
    return without_gil([&] { return std::make_unique<MaskSeeds3D>(shape[0], shape[1], shape[2]); },
                       [&](std::int32_t) { return "expected sides of 1..2^20, got " + triple_text(shape); });
}

// The window of a volume that an array at an origin is.
cellrt::Box window_at(const Triple& origin, const std::vector<py::ssize_t>& shape) {
    cellrt::Box window{origin, origin};
    for (std::size_t axis = 0; axis < 3; ++axis) window.end[axis] += shape[axis];
    return window;
}

std::vector<py::ssize_t> shape_of(const py::object& counts) {
    if (!py::isinstance<py::array>(counts)) return {0, 0, 0};
    const auto array = py::reinterpret_borrow<py::array>(counts);
    const std::vector<py::ssize_t> shape(array.shape(), array.shape() + array.ndim());
    if (shape.size() != 3)
        raise(CELLRT_ERROR_ARGUMENT, "expected counts of three axes (z, y, x), got shape " + shape_text(shape));
    return shape;
}

constexpr const char* negative_counts = "expected counts of at least 0, got negative ones";

void find_seeds(MaskSeeds3D& self, const py::object& counts, const Triple& origin, const Triple& begin,
                const Triple& end, std::int32_t n_threads) {
    check_threads(n_threads);
    const std::vector<py::ssize_t> shape = shape_of(counts);
    const auto* const data = elements<std::int32_t>("counts", counts, shape);
    without_gil([&] { self.find(data, window_at(origin, shape), {begin, end}, n_threads); },
                [&](std::int32_t status) -> std::string {
                    if (status == CELLRT_ERROR_DATA) return negative_counts;
                    if (status == CELLRT_ERROR_CAPACITY) return "expected fewer than 2^31 seeds, got more: cut the volume";
                    return "expected a window of the volume with what is asked for in it, got origin " +
                           triple_text(origin) + ", shape " + shape_text(shape) + ", begin " + triple_text(begin) +
                           " and end " + triple_text(end);
                });
}

void paint_seeds(MaskSeeds3D& self, const py::object& counts, const Triple& origin, std::int32_t n_threads) {
    check_threads(n_threads);
    const std::vector<py::ssize_t> shape = shape_of(counts);
    elements<std::int32_t>("counts", counts, shape);
    auto array = py::reinterpret_borrow<py::array_t<std::int32_t>>(counts);
    if (!array.writeable())
        raise(CELLRT_ERROR_ARGUMENT, "expected counts that can be written, got a read-only array: copy it");
    std::int32_t* const data = array.mutable_data();
    without_gil([&] { self.paint(data, window_at(origin, shape), n_threads); },
                [&](std::int32_t status) -> std::string {
                    if (status == CELLRT_ERROR_DATA) return negative_counts;
                    return "expected a window of the volume, got origin " + triple_text(origin) + " and shape " +
                           shape_text(shape);
                });
}

}  // namespace

PYBIND11_MODULE(_engine, module, py::mod_gil_not_used()) {
    module.doc() = "C++ objects that live across calls. Import them from cellrt.kernels.";
    py::class_<StarNms2D>(module, "StarNms2D", "Suppression of star-convex candidates that arrive tile by tile.")
        .def(py::init(&create), py::arg("n_rays"), py::arg("n_class_channels"), py::arg("max_candidates"))
        .def("add", &add, py::arg("prob"), py::arg("dist"), py::arg("points"), py::arg("class_prob"),
             "Copy the candidates of one tile; on an error nothing has changed.")
        .def("suppressed", &suppressed, py::arg("nms_thresh"), py::arg("max_pairs"), py::arg("cancel"),
             py::arg("n_threads"), "prob, dist, points and class_prob (or None) of the survivors, best first.")
        .def("__len__", [](const StarNms2D& self) {
            const py::gil_scoped_release released;
            return self.size();
        });
    py::class_<MaskSeeds3D>(module, "MaskSeeds3D", "Seeds of masks of a volume whose histogram comes window by window.")
        .def(py::init(&create_seeds), py::arg("shape"))
        .def("find", &find_seeds, py::arg("counts"), py::arg("origin"), py::arg("begin"), py::arg("end"),
             py::arg("n_threads"), "Keep the seeds of a part of a window.")
        .def("paint", &paint_seeds, py::arg("counts"), py::arg("origin"), py::arg("n_threads"),
             "Replace the counts of a window by the masks that bins belong to.")
        .def("__len__", [](const MaskSeeds3D& self) {
            const py::gil_scoped_release released;
            return self.size();
        })
        .def_readonly_static("FIND_MARGIN", &MaskSeeds3D::find_margin)
        .def_readonly_static("PAINT_MARGIN", &MaskSeeds3D::paint_margin);
}
