#include "pack_both.cuh"

namespace sparsetrain {

void pack_some_forms(const Tensor& x, ScalarType type, const Packed& packed, const Bits& bits,
                     const std::string& rule) {
  with_types(x.scalar_type(), type, [&](auto in, auto to) {
    using In = typename decltype(in)::type;
    using Out = typename decltype(to)::type;
    if (bits.given) return pack_both<In, Out, true>(x, packed, bits, Given{}, Identity{});
    with_rule(rule, [&](auto chosen) {
      using Rule = decltype(chosen);
      using OfRows = std::conditional_t<std::is_same_v<Rule, Row>, RowAlone, Rule>;
      pack_both<In, Out, true>(x, packed, bits, OfRows{}, Identity{});
    });
  });
}

}  // namespace sparsetrain
