"""`SUBJECTS`: the 61 subjects that questions are sorted into, each with the words of its questions.

Codes and titles are those of the Mathematics Subject Classification 2020 (s1: `data/msc.json`).
The words are ours: what competitions, schools and first years of study ask about. They are read by
a model as a rubric and by `domains.classify_by_words` as the vocabulary that tells the subjects
apart, so a word that all questions use is in none of them.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """A subject of the classification."""

    code: str  # two digits
    title: str
    words: str  # terms, divided by commas


def _subject(entry: str) -> Subject:
    """One entry of the table below: code, title, colon, words, full stop."""
    heading, words = " ".join(entry.split()).removesuffix(".").split(": ", 1)
    return Subject(heading[:2], heading[3:], words)


# As text: with a line for every bracket and quote nobody would read it.
_TABLE = """
03 Mathematical logic and foundations: logic, proposition, truth table, statement true or false,
   knights and knaves, liar, truth teller, lies, paradox, quantifier, predicate, deduction,
   syllogism, axiom, consistent, model theory, first-order formula, cardinality, cardinal,
   ordinal, countable, uncountable, axiom of choice, computable, Turing machine, halting,
   decidable, Gödel, Peano arithmetic, crossword, riddle, clue, hat puzzle, logical reasoning,
   valid argument, implication.
05 Combinatorics: arrangement, arrange in a row, permutation, combination, counting, choose,
   binomial coefficient, pigeonhole, inclusion-exclusion, subset, graph, vertices and edges of a
   graph, bipartite, tree, Hamiltonian, matching, coloring, colored red or blue, chessboard,
   board, grid, squares of a board, tiling, domino, tile, seating, seated around a round table,
   handshake, tournament, teams play, players, game, committee, Catalan, Stirling, derangement,
   generating function, recursion for the number of, license plate, binary string, Latin square,
   magic square, block design, Ramsey, Sperner, antichain, family of sets, pairs of people,
   friends, boxes, cards, marbles, path on a lattice, ants, tokens, coins, moves, strategy,
   permutations of, cyclic order, ordered pairs, ordered triples, choices, intersections of sets,
   people, neither, arranged, paths, words with letters, group of people, in how many ways, number
   of ways, how many different, selected, formed.
06 Order, lattices, ordered algebraic structures: partially ordered set, poset, order relation,
   lattice join and meet, distributive lattice, Boolean algebra, total order, well-ordered, Zorn,
   Hasse, Galois connection, order-preserving map, Tarski fixed point.
08 General algebraic systems: binary operation, universal algebra, algebraic structure, magma,
   variety of algebras, identity and equational law, operation table, associative or commutative
   operation, custom operator defined by, star operation.
11 Number theory: integer, positive integer, prime, prime number, composite, factorization, prime
   factors, divisor, number of divisors, divisible, divides, multiple, remainder, divided by,
   quotient, modulo, congruent, congruence, residue, quadratic residue, greatest common divisor,
   gcd, least common multiple, lcm, relatively prime, coprime, digit, units digit, last digits,
   tens digit, sum of the digits, digits reversed, palindrome, base ten, base two, decimal
   representation, repeating decimal, perfect square, perfect cube, square number, odd, even,
   parity, consecutive integers, Diophantine equation, integer solutions, Pythagorean triple,
   Fermat, Euler totient, Wilson theorem, Chinese remainder, primitive root, floor function,
   factorial, trailing zeros, rational, irrational, whole number, natural number, continued
   fraction, Legendre, Pell, sum of squares, elliptic curve, modular form, zeta function, p-adic,
   three-digit, four-digit, two-digit number, proper divisors.
12 Field theory and polynomials: polynomial, monic, root, zeros of a polynomial, degree,
   coefficient, leading coefficient, integer coefficients, quadratic, quadratic equation, cubic,
   quartic, discriminant, Vieta, factor theorem, remainder theorem, rational root, irreducible,
   symmetric polynomial, Newton identities, system of equations, solve for x, real solutions,
   factor the expression, expand, simplify, rationalize the denominator, radical, square root,
   cube root, nested radicals, roots of unity, minimal polynomial, Galois group, splitting field,
   finite field, completing the square, product of the roots, sum of the roots, expression,
   algebraic, satisfies the equation, unknown, binomial, monomial, field extension, solve the
   equation, equal to, given equation, what is the value of x.
13 Commutative algebra: commutative ring, ideal, prime ideal, maximal ideal, Noetherian, integral
   domain, unique factorization domain, principal ideal, localization, local ring, module over a
   ring, Krull dimension, integral closure, Gröbner basis, polynomial ring, Hilbert basis,
   Nakayama, Cohen-Macaulay, Dedekind.
14 Algebraic geometry: variety, affine variety, projective variety, scheme, sheaf, genus of a
   curve, Riemann-Roch, blow-up, intersection multiplicity, Bezout, elliptic surface, Hilbert
   scheme, moduli space, birational, morphism of varieties, Grassmannian, toric, genus.
15 Linear and multilinear algebra; matrix theory: matrix, matrices, determinant, trace,
   eigenvalue, eigenvector, rank, nullity, kernel, null space, column space, inverse matrix,
   invertible, transpose, linear transformation, vector space, basis, dimension, linearly
   independent, span, vector, dot product, cross product, inner product, orthogonal, projection
   onto, Gram-Schmidt, diagonalizable, Jordan form, characteristic polynomial, symmetric matrix,
   positive definite, Cramer, Gaussian elimination, linear system, tensor, unit vector, rotation
   matrix, row, column, entries, singular value, bivector, bilinear.
16 Associative rings and algebras: ring, noncommutative ring, matrix ring, division ring,
   quaternions, left ideal, Artinian, semisimple, Jacobson radical, idempotent, nilpotent, module,
   simple module, projective module, Hopf algebra, group ring, derivation of a ring, zero divisor,
   ring homomorphism.
17 Nonassociative rings and algebras: Lie algebra, Lie bracket, commutator, Jacobi identity, root
   system, Dynkin, Cartan subalgebra, Killing form, Verma module, Jordan algebra, octonion,
   Kac-Moody, superalgebra.
18 Category theory; homological algebra: category, functor, natural transformation, adjoint
   functor, morphism, Yoneda, monad, abelian category, exact sequence, chain complex, derived
   functor, Ext and Tor, injective resolution, topos, colimit.
19 K-theory: K-theory, Grothendieck group, Milnor K-group, Bott periodicity, Whitehead group,
   Steinberg symbol, vector bundle.
20 Group theory and generalizations: group, subgroup, abelian group, cyclic group, symmetric
   group, alternating group, dihedral group, normal subgroup, quotient group, coset, order of an
   element, order of the group, Lagrange, Sylow, homomorphism, isomorphism, isomorphic,
   automorphism, conjugacy class, simple group, group action, orbit and stabilizer, Burnside
   lemma, generators and relations, permutation group, representation, character table, free
   group, semigroup, monoid, commutator subgroup, solvable group.
22 Topological groups, Lie groups: Lie group, topological group, compact group, unitary
   representation, orthogonal group, unitary group, one-parameter subgroup, locally compact group,
   discrete subgroup, maximal torus, Haar.
26 Real functions: function, real function, domain and range, inverse function, composition, graph
   of the function, increasing, decreasing, monotone, continuous, continuity, limit, derivative,
   differentiable, second derivative, tangent line, slope, critical point, local maximum, local
   minimum, concave, inflection, mean value theorem, Rolle, Taylor, integral, definite integral,
   antiderivative, area under the curve, Riemann sum, integration by parts, inequality, prove the
   inequality, positive real numbers, nonnegative real numbers, minimum value, maximum value,
   AM-GM, Cauchy-Schwarz, Jensen, convex function, absolute value, logarithm, logarithmic,
   exponent, exponential function, trigonometric function, sine, cosine, tangent, arctangent,
   asymptote, piecewise, odd function, even function, partial derivative, multivariable, gradient,
   double integral, interval, implicit differentiation, rate of change, L'Hopital, bounded
   variation, uniformly continuous, Stokes and divergence theorem, line integral, l'Hôpital,
   graph.
28 Measure and integration: measure, Lebesgue measure, Lebesgue integral, measurable set,
   measurable function, sigma algebra, Borel, outer measure, almost everywhere, null set,
   dominated convergence, Fatou, Fubini, Radon-Nikodym, absolutely continuous measure, Cantor set,
   Hausdorff dimension, fractal, self-similar, Haar.
30 Functions of a complex variable: complex number, complex, imaginary part, real part, imaginary,
   modulus, argument, conjugate, complex plane, analytic function, holomorphic, entire function,
   pole, residue of a function, contour integral, Cauchy theorem, Laurent series, singularity,
   conformal map, Mobius transformation, Rouche, maximum modulus, unit disk, winding number,
   branch cut, Schwarz lemma, meromorphic, de Moivre, cis.
31 Potential theory: harmonic function, subharmonic, Laplacian, Green function, Dirichlet problem,
   Poisson kernel, balayage.
32 Several complex variables and analytic spaces: domain of holomorphy, pseudoconvex,
   plurisubharmonic, Stein manifold, complex manifold, Kähler, Bergman kernel, polydisc, Hartogs,
   Reinhardt domain, several complex variables.
33 Special functions: gamma function, beta function, Bessel function, hypergeometric, Legendre
   polynomial, Hermite polynomial, Laguerre polynomial, Chebyshev polynomial, orthogonal
   polynomials, elliptic integral, Airy function, Jacobi polynomial, digamma, polylogarithm,
   Rodrigues.
34 Ordinary differential equations: ordinary differential equation, solution of the differential
   equation, general solution, differential equation, initial value problem, initial condition,
   separable, integrating factor, Wronskian, undetermined coefficients, variation of parameters,
   boundary value problem, Sturm-Liouville, direction field, existence and uniqueness, Lipschitz,
   brine, mixing, radioactive decay, half-life, logistic growth, damped, Newton's law of cooling,
   Bernoulli equation, fundamental set, homogeneous, disintegrates, salt in a tank, phase line,
   critically damped oscillator.
35 Partial differential equations: partial differential equation, Laplace equation, Poisson
   equation, separation of variables, boundary condition, Dirichlet condition, Neumann condition,
   transport equation, elliptic equation, parabolic equation, hyperbolic equation, Burgers
   equation, Sobolev, d'Alembert, diffusion equation, characteristics, heat conduction equation,
   wave equation.
37 Dynamical systems and ergodic theory: dynamical system, stable, unstable, attractor, phase
   portrait, limit cycle, bifurcation, chaos, chaotic, Lyapunov exponent, logistic map, iterate of
   a map, saddle point, ergodic, invariant measure, mixing map, Poincaré map, symbolic dynamics,
   Julia set, autonomous system, topological entropy, periodic point.
39 Difference and functional equations: functional equation, all functions, Cauchy equation,
   additive, involution, difference equation, linear recurrence, recurrence relation, injective,
   surjective, iterated function, iterates.
40 Sequences, series, summability: sequence, term of the sequence, arithmetic sequence, arithmetic
   progression, geometric sequence, geometric progression, common ratio, common difference, first
   term, nth term, series, infinite series, sum of the series, partial sum, converge, diverge,
   convergent, divergent, convergence, ratio test, alternating series, power series, radius of
   convergence, telescoping, recursively defined, Fibonacci, harmonic series, infinite product,
   Cesaro, bounded sequence, summation.
41 Approximations and expansions: approximation of functions, best approximation, Chebyshev
   approximation, Weierstrass approximation, Bernstein polynomial, spline, Taylor expansion,
   asymptotic expansion, Padé, interpolation, Lagrange interpolation, wavelet approximation,
   linearization.
42 Harmonic analysis on Euclidean spaces: Fourier series, Fourier coefficients, trigonometric
   series, trigonometric polynomial, Fourier analysis, singular integral, Hardy-Littlewood maximal
   function, wavelet, Parseval, Riesz, Gibbs phenomenon, Dirichlet kernel, Fejér, convolution,
   half-range expansion.
43 Abstract harmonic analysis: harmonic analysis on groups, locally compact abelian group,
   Pontryagin duality, amenable group, almost periodic function, Peter-Weyl.
44 Integral transforms, operational calculus: Laplace transform, inverse Laplace transform,
   Fourier transform, inverse Fourier transform, Mellin transform, Hankel transform, Z-transform,
   Hilbert transform, Radon transform, convolution theorem, operational calculus, unit step
   function, Heaviside, impulse.
45 Integral equations: Volterra equation, Fredholm equation, Neumann series, Abel integral
   equation, Fredholm alternative, integral equation, resolvent.
46 Functional analysis: Banach space, Hilbert space, normed space, bounded linear functional, dual
   space, weak convergence, weak topology, Hahn-Banach, open mapping, closed graph, uniform
   boundedness, reflexive, separable space, Riesz representation, distribution theory, Sobolev
   space, locally convex, C-star algebra, von Neumann algebra, sequentially compact, square
   integrable, orthonormal system.
47 Operator theory: linear operator, bounded operator, compact operator, self-adjoint, adjoint
   operator, spectrum of an operator, spectral radius, resolvent, unbounded operator, Fredholm
   operator, semigroup of operators, contraction mapping, Toeplitz operator, unitary operator,
   operator norm, nonexpansive.
49 Calculus of variations and optimal control; optimization: calculus of variations, functional to
   be minimized, Euler-Lagrange, brachistochrone, extremal, Lagrange multiplier, constrained
   extremum, optimal control, Pontryagin maximum principle, Hamilton-Jacobi-Bellman,
   isoperimetric, maximize, minimize, subject to the constraint, optimization.
51 Geometry: ABC, triangle, isosceles, equilateral, acute, obtuse, hypotenuse, circle,
   circumcircle, inscribed, incenter, incircle, circumcenter, circumradius, orthocenter, centroid,
   altitude, median of a triangle, angle bisector, perpendicular, perpendicular bisector, parallel
   lines, tangent to the circle, tangent circles, chord, arc, diameter, radius, secant, angle,
   degrees, interior angle, segment, line segment, midpoint, collinear, concurrent, concyclic,
   cyclic quadrilateral, quadrilateral, trapezoid, parallelogram, rhombus, rectangle, side length,
   sides, regular polygon, pentagon, hexagon, octagon, area, perimeter, similar triangles,
   congruent triangles, law of cosines, Pythagorean theorem, Ptolemy, Ceva, Menelaus, homothety,
   inversion, diagonal, vertex, volume, surface area, sphere, cylinder, cone, pyramid,
   tetrahedron, cube, prism, cross section, plane, coordinates, coordinate plane, distance
   between, ellipse, parabola, hyperbola, focus, foci, directrix, locus, equation of the line,
   intersect at, feet of the perpendiculars, diagram, shaded region, sector, rays, lies on,
   inside, edges, face, solid, semicircle, reflected, rotated, drawn, length, slope, endpoints,
   angles, dimensions, interior, figure, cubic units.
52 Convex and discrete geometry: convex set, convex hull, convex polygon, convex polyhedron,
   polytope, polyhedra, Helly, Minkowski, lattice points, Pick, kissing number, Voronoi,
   tessellation, Platonic solid, Carathéodory, dissect, sphere packing, covering, no three
   collinear.
53 Differential geometry: curvature, Gaussian curvature, mean curvature, Frenet, geodesic,
   Riemannian metric, Christoffel symbols, parallel transport, Ricci, osculating, Gauss-Bonnet,
   symplectic, parametrized, fundamental form, surface of revolution, space curve, binormal,
   torsion.
54 General topology: topological space, topology, open set, closed set, compact, connected,
   Hausdorff, closure, interior of a set, metric space, complete metric, dense, homeomorphism,
   homeomorphic, Baire, continuous map, subspace, path connected, totally bounded, discrete
   topology.
55 Algebraic topology: fundamental group, homotopy, homology, homology group, cohomology, covering
   space, simply connected, Euler characteristic, Betti number, simplicial complex, CW complex,
   singular homology, homotopy group, Brouwer fixed point, Borsuk-Ulam, retraction, deformation
   retract, fibration, degree of a map, wedge of circles, genus, torus.
57 Manifolds and cell complexes: manifold, knot, braid, three-manifold, orientable, Klein bottle,
   Mobius strip, cobordism, handle decomposition, knot invariant, Jones polynomial, connected sum.
58 Global analysis, analysis on manifolds: differential form, exterior derivative, Stokes theorem,
   de Rham, Morse theory, index theorem, Laplace-Beltrami, infinite-dimensional manifold, harmonic
   maps.
60 Probability theory and stochastic processes: probability, chance, random, at random, randomly,
   likely, odds, dice, die, rolled, fair coin, toss, flip, heads or tails, drawn from a deck,
   cards drawn, urn, balls, replacement, independent events, conditional probability, Bayes,
   expected value, expected number, expectation, variance of a random variable, random variable,
   density, uniform distribution, binomial distribution, Poisson process, exponential
   distribution, normal distribution, joint distribution, moment generating function, independent
   identically distributed, Markov chain, transition probability, stationary distribution, random
   walk, Brownian motion, martingale, stochastic, Wiener, law of large numbers, central limit
   theorem, queue, arrivals, waiting time, birthday problem, raffle, lottery, events, pdf,
   lifetime, coins tossed, hands dealt, spinner, red and green balls, probability that, chosen at
   random.
62 Statistics: statistics, sample, sample mean, sample size, population mean, average score,
   standard deviation, variance, percentile, quartile, histogram, scatter plot, box plot,
   frequency table, survey, poll, data, data set, outlier, hypothesis test, null hypothesis,
   significance level, p-value, confidence interval, t-test, chi-square, regression, least squares
   line, correlation, estimator, unbiased, maximum likelihood, sufficient statistic, Fisher
   information, likelihood ratio, prior and posterior, Bayesian inference, normally distributed,
   test statistic, randomly selected, analysis of variance, margin of error, median, mode,
   average, measurements, test scores, observations, random sample, mean.
65 Numerical analysis: iteration, Newton's method, bisection, secant method, fixed-point
   iteration, interpolation polynomial, trapezoidal rule, Simpson's rule, quadrature, Runge-Kutta,
   Euler's method, step size, rounding error, finite difference, condition number, LU
   factorization, Jacobi method, Gauss-Seidel, conjugate gradient, floating point, numerical
   method.
68 Computer science: program, programming, code, algorithm, test cases, array, string, integer
   array, data structure, hash, binary tree, sorting, dynamic programming, breadth-first search,
   shortest path, time complexity, NP-complete, automaton, regular language, context-free grammar,
   compiler, operating system, cache, database, network, protocol, packet, machine learning,
   neural network, pixel, bits, byte, Python, pointer, loop, minimum spanning tree, vertex cover,
   hash table, subarray, Farmer John, cows, sample input, HTTP, encryption, stack, print, input
   and output, image.
70 Mechanics of particles and systems: mass, kg, force, velocity, m/s, acceleration, momentum,
   impulse, kinetic energy, potential energy, friction, coefficient of friction, gravity, newton,
   projectile, thrown, dropped, launched, fired, trajectory, collision, elastic collision,
   inelastic, block, inclined plane, ramp, pulley, rope, cord, spring, spring constant, pendulum,
   oscillator, harmonic motion, amplitude, moment of inertia, torque, angular velocity, angular
   momentum, rolling, rod, rigid body, center of mass, equilibrium, tension, rocket, thrust,
   Lagrangian, Hamiltonian, generalized coordinates, central force, car, truck, brakes, skier,
   bullet, elevator, air resistance, drag, work, restitution, strikes, collides, hits the ground,
   meters per second, speed, rest, skater, ladder, gravitational force, centrifugal.
74 Mechanics of deformable solids: stress, strain, Young's modulus, elastic modulus, elasticity,
   shear stress, bending moment, beam, cantilever, deflection, buckling, plastic, yield strength,
   tensile, fracture, deformation, Poisson's ratio, viscoelastic, ductile, Hooke, elongation.
76 Fluid mechanics: fluid, liquid, water flow, buoyancy, floats, submerged, Archimedes,
   Bernoulli's principle, viscosity, Reynolds number, laminar, turbulent, incompressible,
   Navier-Stokes, pipe, nozzle, drag force, surface tension, capillary, hydrostatic, hydraulic,
   dam, manometer, barometer, vortex, streamline, shock wave, Mach number, specific gravity,
   bubble, airfoil, depth of water.
78 Optics, electromagnetic theory: electric, electric field, electric charge, charged, charge,
   coulomb, Gauss's law, electric potential, volt, voltage, potential difference, capacitor,
   capacitance, dielectric, current, ampere, resistor, resistance, resistivity, ohm, circuit,
   battery, Kirchhoff, galvanometer, magnetic, magnetic field, tesla, magnetic flux, solenoid,
   coil, inductor, inductance, induced emf, Faraday, Lenz, dipole, Maxwell, electromagnetic wave,
   light, lens, focal length, mirror, image distance, refraction, index of refraction, prism,
   reflection, polarized, polarization, interference, diffraction, slit, grating, fringes,
   wavelength of light, laser beam, optical, thin film, microscope, telescope, intensity,
   conducting, conductor, insulating, wire, microwave, antenna, cathode ray, point charges.
80 Classical thermodynamics, heat transfer: temperature, heat, thermal, thermodynamic, enthalpy,
   entropy, internal energy, Gibbs energy, Helmholtz, heat capacity, specific heat, calorimeter,
   latent heat, vaporization, fusion, melting, boiling, boiling point, vapor pressure, phase
   transition, ideal gas, perfect gas, pressure of the gas, atm, bar, torr, kelvin, celsius,
   isothermal, adiabatic, isobaric, reversible, expands, piston, Carnot, efficiency, refrigerator,
   thermal conductivity, conduction, convection, insulated, ice, steam, thermometer, kJ mol,
   joule, molar, partial pressure, van der Waals, thermochemical, Joule-Thomson, heat engine,
   compressed, gas, gases, per kelvin, warm, cooled, hot and cold.
81 Quantum theory: quantum, wave function, Schrödinger, Hamiltonian operator, eigenstate, quantum
   number, ground state, excited state, energy level, tunneling, barrier, angular momentum
   operator, spin, Pauli, uncertainty principle, de Broglie wavelength, photon, photoelectric,
   work function, Planck, blackbody, hydrogen atom, Bohr, Rydberg, Balmer, orbital, hydrogenic,
   electron, emission, absorption line, spectrum, spectral line, wavenumber, vibrational,
   rotational constant, perturbation theory, variational method, commutation, bra ket, qubit,
   entangled, Feynman, Compton, scattering, proton, muon, pion, probability amplitude, expectation
   value of an observable, electron volt, particle in a box, square well, hbar, neutron, nucleus,
   nuclear, kiloelectronvolt, eV.
82 Statistical mechanics, structure of matter: statistical mechanics, partition function,
   Boltzmann, canonical ensemble, microstate, Maxwell distribution of speeds, mean free path,
   kinetic theory, molecular speed, crystal, unit cell, lattice constant, cubic close packed,
   face-centered, body-centered, X-ray diffraction, Bragg, Miller indices, semiconductor, band
   gap, Fermi energy, conduction electrons, phonon, Debye, Einstein solid, magnetization, Ising,
   ferromagnet, superconductor, doping, alloy, polymer, osmotic pressure, Fermi-Dirac,
   Bose-Einstein, residual entropy, intermolecular, Lennard-Jones, density of states, diffusion,
   degeneracy, vibrational temperature.
83 Relativity and gravitational theory: relativity, special relativity, relativistic, Lorentz
   transformation, Lorentz factor, time dilation, length contraction, proper time, proper length,
   inertial frame, frame of reference, simultaneous, speed of light, spacetime, Minkowski space,
   rest mass, rest energy, twin paradox, spaceship, general relativity, Einstein equations, black
   hole, Schwarzschild, event horizon, redshift, metric tensor, equivalence principle, world line,
   observer, aged, gravitational waves, light-years, traveling near the speed of light.
85 Astronomy and astrophysics: astronomy, star, solar mass, luminosity, apparent magnitude,
   absolute magnitude, parsec, parallax, planet, orbit, orbital period, Kepler, comet, asteroid,
   satellite, eclipse, eccentricity of the orbit, galaxy, Hubble, cosmology, cosmic background,
   universe, supernova, neutron star, white dwarf, main sequence, binary star, exoplanet,
   declination, right ascension, celestial, constellation, heliocentric, Jupiter, Mars, Venus,
   Saturn, escape velocity, astronomical unit, telescope aperture, sunspot, light-years, sun,
   moon, Earth, gravitational.
86 Geophysics: earthquake, seismic, Richter, mantle, crust, tectonic plates, volcano, magma,
   mineral, sediment, groundwater, aquifer, ocean tide, atmosphere, weather, rainfall, climate,
   hurricane, glacier, erosion, latitude, longitude, geomagnetic, fossil, geology, river
   discharge, greenhouse, wind, rocks.
90 Operations research, mathematical programming: linear programming, objective function, feasible
   region, simplex method, integer programming, constraints, transportation problem, scheduling,
   job shop, inventory, queueing, network flow, traveling salesman, knapsack, Karush-Kuhn-Tucker,
   critical path, shipping cost, warehouse, resource allocation, max-flow.
91 Game theory, economics, social and behavioral sciences: game theory, payoff, Nash equilibrium,
   dominant strategy, prisoner's dilemma, auction, bid, voting, election, candidate, market,
   demand, supply, price elasticity, utility, consumer, monopoly, firm, marginal cost, revenue,
   tax, interest rate, simple interest, compound interest, annuity, bond, present value, stock,
   option price, call option, portfolio, insurance, premium, loan, mortgage, investment, invested,
   bank, dividend, inflation, GDP, economy, economics, accounting, salary, legislation, court,
   passage, author, psychology, sociology, government, reading comprehension, essay, law, legal,
   exchange rate, account, deposit, compounded, currency, language.
92 Biology and other natural sciences: biology, chemistry, cell, gene, DNA, RNA, protein, enzyme,
   amino acid, allele, genotype, phenotype, mutation, chromosome, evolution, species, predator,
   ecology, epidemic, infection, virus, disease, patient, drug, blood, heart, neuron, hormone,
   plant, photosynthesis, membrane, organism, reaction, chemical reaction, reactant, compound,
   molecule, molecular formula, molar mass, mole, mol, stoichiometry, acid, base titration, pH,
   buffer, solubility, concentration, precipitate, oxidation, redox, electrolysis, electrode,
   electrochemical cell, catalyst, rate law, rate constant, activation energy, equilibrium
   constant, organic, benzene, alcohol, ketone, aldehyde, ester, synthesis, NMR, isomer,
   stereochemistry, chiral, ligand, oxide, chloride, nitrate, sodium, carbon, nitrogen, oxygen,
   hydrogen, isotope, ionization, hybridization, periodic table, solvent, reagent, bacteria, acid
   solution, population, tissue, medicine.
93 Systems theory; control: control system, feedback, controller, transfer function, closed loop,
   root locus, Bode plot, Nyquist, gain margin, PID, controllability, observability, Kalman
   filter, step response, impulse response, Routh, linear time-invariant system, settling time,
   state-space.
94 Information and communication, circuits: information theory, entropy of a source, channel
   capacity, mutual information, source coding, Huffman code, codeword, error-correcting code,
   Hamming distance, Hamming code, parity check, cyclic code, cryptography, cipher, RSA, public
   key, encrypt, signal, sampling rate, bandwidth, modulation, noise, signal-to-noise, digital
   filter, logic gate, Boolean circuit, transistor, amplifier, diode, transmission line, radio,
   bit rate, Nyquist rate, quantization, compression, Shannon, binary symmetric channel.
97 Mathematics education: word problem, percent, percentage, ratio, proportion, fraction, common
   fraction, decimal, mixed number, rounding, unit conversion, inches, feet, yards, miles per
   hour, dollars, cents, price, cost, sold, bought, discount, profit, loss, selling price, cost
   price, paid, boys and girls, apples, eggs, cookies, gallons, pounds, ounces, average speed,
   train, walks, travels, upstream, downstream, boat, work together, pipe fills a tank, age, years
   old, older, twice as many, per day, per week, order of operations, place value, number line,
   school, teacher, mixture, classroom, dollar, weeks, days, hours, minutes, arithmetic, how much.
"""

SUBJECTS = tuple(_subject(entry) for entry in re.split(r"\n(?=\d\d )", _TABLE.strip()))
